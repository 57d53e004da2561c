# The dependencies are a layer of their own: they are built again only when the lock file changes.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock rust-toolchain.toml askama.toml ./
RUN mkdir benches src && echo 'fn main() {}' > src/main.rs && touch benches/messages.rs src/lib.rs \
    && cargo build --release --locked && rm -rf benches src
COPY benches benches
COPY settings settings
COPY migrations migrations
COPY static static
COPY src src
RUN touch src/main.rs src/lib.rs && cargo build --release --locked && mkdir -m 0700 /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/bedrock_proxy /usr/local/bin/bedrock_proxy
COPY --from=build --chown=10001:10001 /data /data
USER 10001:10001
WORKDIR /
ENV BEDROCK_DATABASE__URL=sqlite:///data/bedrock_sso.db
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/bedrock_proxy", "health"]
ENTRYPOINT ["/usr/local/bin/bedrock_proxy"]
