# taskspan as a static program in an empty image.
#
#   docker build -t taskspan:0.1.0 .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/output:/exports" taskspan:0.1.0 \
#     once /exports --endpoint http://tempo.example.com:4317
#
# A second image holds the same program beside a shell, for whoever has to copy it into a volume or runs CI jobs in it:
#
#   docker build -t taskspan-installer:0.1.0 --target installer .
#
# Both are built for the architecture that builds them (x86_64 or aarch64). For several at once:
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t REGISTRY/taskspan:0.1.0 --push .

ARG RUST=1

FROM rust:${RUST}-alpine AS build
# Cryptography (ring) is compiled from C. The certificates go into the last image.
RUN apk add --no-cache binutils ca-certificates gcc musl-dev
WORKDIR /src
COPY Cargo.toml Cargo.lock pipeline.schema.json ./
COPY src src
COPY yaml yaml
# Cargo wants the files of every target that its manifest names.
COPY benches benches
# The sample that `taskspan demo` carries within it.
COPY examples/sample-export examples/sample-export
# Rust on Alpine builds for …-unknown-linux-musl, which is static unless told otherwise; the third line makes sure.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin taskspan \
    && if readelf --dynamic target/release/taskspan | grep NEEDED; then echo "it is not static" >&2; exit 1; fi \
    && install -D target/release/taskspan /out/taskspan \
    && mkdir -p /out/root/var/lib/taskspan && chmod 1777 /out/root/var/lib/taskspan \
    && /out/taskspan --version

# The program beside a shell. As root, since what a CI system checks out often belongs to root; elsewhere say who.
FROM busybox:1 AS installer
COPY --from=build /out/taskspan /usr/local/bin/taskspan
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

FROM scratch
LABEL org.opencontainers.image.title="taskspan" \
      org.opencontainers.image.description="A sidecar that turns ContextCore manifest exports into OTLP traces" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY LICENSE /LICENSE
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# The queue's directory takes any user, since --user may name any; the files that taskspan makes there are its own.
COPY --from=build /out/root /
COPY --from=build /out/taskspan /taskspan
# The authorities that https:// endpoints are checked against; `tls.ca_file` beats them.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# So that `docker exec NAME /taskspan queue list` finds the queue without being told.
ENV XDG_STATE_HOME=/var/lib
# Nobody in particular. Run it as the user who owns the exports (--user): the rewritten file keeps its owner.
USER 65532:65532
# It needs `service.extensions: [health_check]` in the configuration. Podman: build with --format docker to keep it.
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["/taskspan", "healthcheck"]
ENTRYPOINT ["/taskspan"]
# Mount the configuration there, and a volume for the queue.
CMD ["run", "-c", "/etc/taskspan/pipeline.yaml", "--state-dir", "/var/lib/taskspan"]
