//! `bedrock_proxy health`

use std::{net::IpAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::settings::{Server, listen_address};

#[derive(Debug, Parser)]
pub struct Args {
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

/// Success if `/health/ready` answers 200 on the configured address.
///
/// # Errors
/// If the settings name no address; a service that does not answer is an exit code, not an error.
pub async fn run(args: Args, server: &Server) -> anyhow::Result<ExitCode> {
    let address = listen_address(&server.host, server.port)?;
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) if ip.is_unspecified() => "[::1]".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let mut connector = awc::Connector::new();
    let mut scheme = "http";
    if let Some(path) = &server.tls.cert {
        scheme = "https";
        let own =
            CertificateDer::from_pem_file(path).with_context(|| path.display().to_string())?;
        connector = connector.rustls_0_23(Arc::new(pinned(own)?));
    }
    let client = awc::Client::builder()
        .connector(connector)
        .timeout(Duration::from_secs(args.timeout))
        .finish();
    let answer =
        client.get(format!("{scheme}://{host}:{}/health/ready", address.port())).send().await;
    Ok(match answer {
        Ok(answer) if answer.status().is_success() => ExitCode::SUCCESS,
        Ok(answer) => {
            eprintln!("not ready: {}", answer.status());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no answer: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Trusts exactly the certificate that the service is configured with, by whatever name it is reached.
fn pinned(own: CertificateDer<'static>) -> anyhow::Result<ClientConfig> {
    let provider = CryptoProvider::get_default().context("main installs a provider")?.clone();
    let verifier = Arc::new(Pinned { own, provider });
    Ok(ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    own: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.own {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate than server.tls.cert".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
