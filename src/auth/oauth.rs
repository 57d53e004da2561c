//! The conversation with an identity provider: the address that a browser is sent to, the code that comes back, who it is
//! for, and later whether the provider still vouches for them. It knows no database and no page.

pub mod http;
mod id_token;
pub mod profile;

use std::cell::RefCell;

use chrono::{DateTime, Utc};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, ExtraTokenFields, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken,
    RequestTokenError, Scope, StandardRevocableToken, StandardTokenResponse, TokenResponse,
    TokenUrl,
    basic::{
        BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse,
        BasicTokenIntrospectionResponse, BasicTokenType,
    },
};
use openidconnect::core::{CoreClientAuthMethod, CoreJsonWebKeySet, CoreProviderMetadata};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use super::providers::{Protocol, Provider, is_one_of};
use http::{FetchError, Http};
use id_token::IdTokenError;
use profile::{Claims, Profile, ProfileError};

/// Most keys of a provider's set that are looked at.
const MOST_KEYS: usize = 100;

/// Why a provider could not be used, or a sign-in there not be believed.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("the provider cannot be used at the moment: {what}")]
    Unavailable {
        what: &'static str,
        #[source]
        cause: Option<FetchError>,
    },
    #[error("the provider's discovery document is wrong: {0}")]
    Discovery(String),
    #[error("the provider refused: {code}")]
    Refused { code: String },
    #[error("the provider does not accept this service's client id and secret")]
    Client,
    #[error("the provider's answer holds no {0}")]
    Missing(&'static str),
    #[error("the answer names another issuer (iss)")]
    OtherIssuer,
    #[error("the id_token is not believed: {0}")]
    IdToken(#[from] IdTokenError),
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

impl ProviderError {
    fn unavailable(what: &'static str, cause: FetchError) -> Self {
        Self::Unavailable { what, cause: Some(cause) }
    }

    /// For the audit log and the metric.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "provider_unavailable",
            Self::Discovery(_) => "provider_discovery",
            Self::Refused { .. } => "provider_refused",
            Self::Client => "provider_client",
            Self::Missing(_) => "answer_incomplete",
            Self::OtherIssuer => "other_issuer",
            Self::IdToken(_) => "id_token_invalid",
            Self::Profile(_) => "profile_invalid",
        }
    }
}

/// What is known of a provider before anybody signs in.
pub struct Discovered {
    authorization: AuthUrl,
    token: TokenUrl,
    user_info: Option<Url>,
    post_secret: bool,
    /// It promises to name itself in its answers (RFC 9207).
    names_itself: bool,
    keys: Option<KeySet>,
}

/// A member of a discovery document that the library does not know.
#[derive(Deserialize)]
struct Promise {
    #[serde(default, rename = "authorization_response_iss_parameter_supported")]
    names_itself: bool,
}

/// The keys that an OpenID Connect provider signs with.
struct KeySet {
    url: Url,
    keys: RefCell<CoreJsonWebKeySet>,
    /// Held by whoever fetches them anew.
    fetching: tokio::sync::Mutex<()>,
}

/// What a provider's token answer may hold besides OAuth's own members.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Extra {
    id_token: Option<String>,
}

impl ExtraTokenFields for Extra {}

type Tokens = StandardTokenResponse<Extra, BasicTokenType>;
type Client = oauth2::Client<
    BasicErrorResponse,
    Tokens,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// Finds out what has to be known of a provider.
///
/// # Errors
/// [`ProviderError::Unavailable`], [`ProviderError::Discovery`].
pub async fn discover(http: &Http, provider: &Provider) -> Result<Discovered, ProviderError> {
    let wrong = |error: url::ParseError| ProviderError::Discovery(error.to_string());
    match &provider.protocol {
        Protocol::OAuth2 { authorization_url, token_url, user_info_url, .. } => Ok(Discovered {
            authorization: AuthUrl::new(authorization_url.clone()).map_err(wrong)?,
            token: TokenUrl::new(token_url.clone()).map_err(wrong)?,
            user_info: Some(Url::parse(user_info_url).map_err(wrong)?),
            post_secret: true,
            names_itself: false,
            keys: None,
        }),
        Protocol::OpenId { issuer, discovery, .. } => {
            let url = Url::parse(discovery).map_err(wrong)?;
            let document = http
                .get(&url, None)
                .await
                .map_err(|cause| ProviderError::unavailable("discovery", cause))?;
            let metadata: CoreProviderMetadata = serde_json::from_slice(&document)
                .map_err(|error| ProviderError::Discovery(error.to_string()))?;
            if metadata.issuer().as_str() != issuer {
                let message = format!("its issuer is {}, not {issuer}", metadata.issuer().as_str());
                return Err(ProviderError::Discovery(message));
            }
            let token = metadata
                .token_endpoint()
                .ok_or_else(|| ProviderError::Discovery("it names no token_endpoint".to_owned()))?;
            let user_info = metadata.userinfo_endpoint().map(|url| url.url().clone());
            let keys = metadata.jwks_uri().url().clone();
            let authorization = metadata.authorization_endpoint().url();
            let found = [Some(authorization), Some(token.url()), user_info.as_ref(), Some(&keys)];
            for found in found.into_iter().flatten() {
                http::may_follow(&url, found).map_err(|what| {
                    ProviderError::Discovery(format!("{found} is no address to go to: {what}"))
                })?;
            }
            let methods = metadata.token_endpoint_auth_methods_supported();
            let basic =
                methods.is_none_or(|all| all.contains(&CoreClientAuthMethod::ClientSecretBasic));
            Ok(Discovered {
                authorization: AuthUrl::from_url(authorization.clone()),
                token: TokenUrl::from_url(token.url().clone()),
                user_info,
                post_secret: !basic,
                names_itself: serde_json::from_slice(&document)
                    .is_ok_and(|Promise { names_itself }| names_itself),
                keys: Some(KeySet {
                    keys: RefCell::new(fetch_keys(http, &keys).await?),
                    url: keys,
                    fetching: tokio::sync::Mutex::default(),
                }),
            })
        }
    }
}

async fn fetch_keys(http: &Http, url: &Url) -> Result<CoreJsonWebKeySet, ProviderError> {
    let unavailable = |cause| ProviderError::unavailable("its keys", cause);
    let document = http.get_keys(url).await.map_err(unavailable)?;
    let wrong = |error: serde_json::Error| ProviderError::Discovery(format!("its keys: {error}"));
    #[derive(Deserialize)]
    struct Raw {
        keys: Vec<serde::de::IgnoredAny>,
    }
    let raw: Raw = serde_json::from_slice(&document).map_err(wrong)?;
    if raw.keys.len() > MOST_KEYS {
        let message = format!("its set has {} keys, more than {MOST_KEYS}", raw.keys.len());
        return Err(ProviderError::Discovery(message));
    }
    serde_json::from_slice(&document).map_err(wrong)
}

/// What a sign-in that begins needs: secrets of ours, and where the browser is to come back to.
pub struct Start<'a> {
    pub redirect_uri: &'a str,
    pub state: &'a str,
    pub nonce: &'a str,
    pub verifier: &'a str,
}

impl Discovered {
    fn client(&self, provider: &Provider, redirect_uri: Option<&str>) -> Client {
        let mut client = oauth2::Client::new(ClientId::new(provider.client_id.clone()))
            .set_auth_uri(self.authorization.clone())
            .set_token_uri(self.token.clone());
        if let Some(secret) = &provider.client_secret {
            client = client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned()));
        }
        if self.post_secret {
            client = client.set_auth_type(AuthType::RequestBody);
        }
        match redirect_uri.and_then(|uri| RedirectUrl::new(uri.to_owned()).ok()) {
            Some(uri) => client.set_redirect_uri(uri),
            None => client,
        }
    }

    /// Where the browser is to go.
    pub fn authorize_url(&self, provider: &Provider, start: &Start<'_>) -> Url {
        let client = self.client(provider, Some(start.redirect_uri));
        let state = start.state.to_owned();
        let mut request = client.authorize_url(move || CsrfToken::new(state));
        for scope in &provider.scopes {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        for (name, value) in provider.extra {
            request = request.add_extra_param(*name, *value);
        }
        if self.keys.is_some() {
            request = request.add_extra_param("nonce", start.nonce.to_owned());
        }
        if provider.pkce {
            let verifier = PkceCodeVerifier::new(start.verifier.to_owned());
            request =
                request.set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        }
        request.url().0
    }

    /// Takes a code to the provider, unless `iss`, which came with it, is another's. Answers who it is for.
    ///
    /// # Errors
    /// Why the sign-in is not believed.
    pub async fn finish(
        &self,
        http: &Http,
        provider: &Provider,
        start: &Start<'_>,
        code: &str,
        iss: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Profile, ProviderError> {
        // A code that another provider gave must not be brought to this one (RFC 9207, 2.4).
        if self.names_itself && iss.is_none() {
            return Err(ProviderError::OtherIssuer);
        }
        if let (Some(iss), Protocol::OpenId { issuer, tenants, .. }) = (iss, &provider.protocol) {
            let ours =
                if tenants.is_empty() { iss == issuer } else { is_one_of(issuer, tenants, iss) };
            if !ours {
                return Err(ProviderError::OtherIssuer);
            }
        }
        let client = self.client(provider, Some(start.redirect_uri));
        let mut request = client.exchange_code(AuthorizationCode::new(code.to_owned()));
        if provider.pkce {
            request = request.set_pkce_verifier(PkceCodeVerifier::new(start.verifier.to_owned()));
        }
        let send = |request| http.oauth(request);
        let tokens = request.request_async(&send).await.map_err(refused)?;
        let refresh_token =
            tokens.refresh_token().map(|token| SecretString::from(token.secret().as_str()));
        let mut claims = Claims::default();
        if self.keys.is_some() {
            let id_token = tokens.extra_fields().id_token.as_deref();
            let id_token = id_token.ok_or(ProviderError::Missing("id_token"))?;
            claims = self.verified(http, provider, id_token, start.nonce, now).await?;
        }
        // A provider that does not put the address into the id_token is asked for it.
        let needed = ["email_verified", &provider.email_field, &provider.user_id_field];
        if needed.iter().any(|name| !claims.has(name)) {
            let access = tokens.access_token().secret();
            claims = self.with_user_info(http, provider, access, claims).await?;
        }
        Ok(claims.profile(provider, refresh_token)?)
    }

    async fn with_user_info(
        &self,
        http: &Http,
        provider: &Provider,
        access_token: &str,
        claims: Claims,
    ) -> Result<Claims, ProviderError> {
        let Some(url) = &self.user_info else { return Ok(claims) };
        let unavailable = |cause| ProviderError::unavailable("its user information", cause);
        let told = http.get(url, Some(access_token)).await.map_err(unavailable)?;
        let mut claims = claims.with(&told)?;
        if let Protocol::OAuth2 { emails_url: Some(url), .. } = &provider.protocol {
            let url = Url::parse(url).map_err(|e| ProviderError::Discovery(e.to_string()))?;
            let told = http.get(&url, Some(access_token)).await.map_err(unavailable)?;
            claims = claims.with_verified_address(&told)?;
        }
        Ok(claims)
    }

    /// Checks an id_token. A key that is not known may be a new one: then the set is fetched again, once a minute at
    /// most.
    async fn verified(
        &self,
        http: &Http,
        provider: &Provider,
        id_token: &str,
        nonce: &str,
        now: DateTime<Utc>,
    ) -> Result<Claims, ProviderError> {
        let Some(set) = &self.keys else { return Err(ProviderError::Missing("keys")) };
        let expected = id_token::Expected { provider, nonce, now };
        let verify = || id_token::verify(id_token, &set.keys.borrow(), &expected);
        let verdict = verify();
        if verdict != Err(IdTokenError::UnknownKey) {
            return Ok(verdict?);
        }
        // Whoever comes while the new keys are on their way waits for them.
        let _turn = set.fetching.lock().await;
        let verdict = verify();
        if verdict == Err(IdTokenError::UnknownKey) && http.may_refetch(&set.url) {
            let keys = fetch_keys(http, &set.url).await?;
            set.keys.replace(keys);
            return Ok(verify()?);
        }
        Ok(verdict?)
    }

    /// Asks the provider, with the refresh token that it gave, whether it still vouches for somebody. Answers the token
    /// for the next time.
    ///
    /// # Errors
    /// [`ProviderError::Refused`] with `invalid_grant` is the answer no; the others are none.
    pub async fn recheck(
        &self,
        http: &Http,
        provider: &Provider,
        refresh_token: &SecretString,
    ) -> Result<Option<SecretString>, ProviderError> {
        let client = self.client(provider, None);
        let token = RefreshToken::new(refresh_token.expose_secret().to_owned());
        let send = |request| http.oauth(request);
        let tokens =
            client.exchange_refresh_token(&token).request_async(&send).await.map_err(refused)?;
        Ok(tokens.refresh_token().map(|token| SecretString::from(token.secret().as_str())))
    }
}

fn refused(error: RequestTokenError<FetchError, BasicErrorResponse>) -> ProviderError {
    let of_code = |code: &str| match code {
        "invalid_client" | "unauthorized_client" | "incorrect_client_credentials" => {
            ProviderError::Client
        }
        code => ProviderError::Refused { code: code.chars().take(100).collect() },
    };
    match error {
        RequestTokenError::ServerResponse(response) => match response.error() {
            BasicErrorResponseType::InvalidClient | BasicErrorResponseType::UnauthorizedClient => {
                ProviderError::Client
            }
            other => of_code(other.as_ref()),
        },
        RequestTokenError::Request(cause) => {
            ProviderError::unavailable("its token endpoint", cause)
        }
        // GitHub says 200 to everything, and means it only sometimes.
        RequestTokenError::Parse(_, body) => {
            #[derive(Deserialize)]
            struct Refusal {
                error: String,
            }
            match serde_json::from_slice::<Refusal>(&body) {
                Ok(refusal) => of_code(&refusal.error),
                Err(_) => ProviderError::Unavailable { what: "its token endpoint", cause: None },
            }
        }
        RequestTokenError::Other(_) => {
            ProviderError::Unavailable { what: "its token endpoint", cause: None }
        }
    }
}
