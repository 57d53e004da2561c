# An image of the binary, the libraries it is linked with and certificate authorities: no shell, no package manager, and a
# root that is never written to. The dependencies are a layer of their own, built again only when a manifest changes.
FROM rust:1.95.0-bookworm AS source
WORKDIR /source
COPY . .
RUN scripts/image skeleton /skeleton

FROM rust:1.95.0-bookworm AS build
# The toolchain of the image, without the parts of rust-toolchain.toml that only development needs.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY --from=source /skeleton .
RUN cargo build --release --locked --bin bedrock_proxy
COPY . .
# Sources may be older than what was built of the skeleton.
RUN find src derive -name '*.rs' -exec touch {} + 2>/dev/null; \
    cargo build --release --locked --bin bedrock_proxy
RUN scripts/image tree target/release/bedrock_proxy /image && mkdir /writable && mv /image/data /writable

FROM scratch
COPY --from=build /image /
COPY --from=build --chown=10001:10001 /writable /
USER 10001:10001
WORKDIR /
# ./data of the default settings: the SQLite file and the usage journal.
VOLUME /data
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/local/bin/bedrock_proxy", "health"]
ENTRYPOINT ["/usr/local/bin/bedrock_proxy"]
