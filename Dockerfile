# One image for worker and gateway, on CPU or on CUDA. It needs BuildKit (DOCKER_BUILDKIT=1, or any engine since 23).
#
#   docker build --tag nats-rerank:cpu .
#   docker build --tag nats-rerank:cuda --build-arg VARIANT=cuda .
#   docker build --target sbom --output type=local,dest=. .            # the list of parts alone: sbom.cdx.json
#
# deploy/README.md says what the arguments do. `make images` builds the image and tries it, also where no registry is in reach.
ARG VARIANT=cpu
ARG RUST_VERSION=1.95
ARG DEBIAN_RELEASE=bookworm

# --- what builds -----------------------------------------------------------------------------------------------------
FROM rust:${RUST_VERSION}-slim-${DEBIAN_RELEASE} AS tools
# Each step that reaches a registry may get the builder's own way there, as secrets: nothing of it stays in a layer.
COPY deploy/images/with-settings /usr/local/bin/
RUN --mount=type=secret,id=settings --mount=type=secret,id=ca \
    with-settings sh -c 'apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends binutils g++ make python3 python3-pip >/dev/null' \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV NATS_RERANK_CACHE=/opt/cache

FROM tools AS libtorch
COPY tools/setup tools/wheels.lock tools/
COPY tools/lib/cache.py tools/lib/checkpoints.py tools/lib/nats_servers.py tools/lib/setup.py tools/lib/tensor_file.py tools/lib/
RUN --mount=type=secret,id=settings --mount=type=secret,id=ca with-settings tools/setup libtorch

# The libraries of the image. The symbols that strip takes away are for debuggers and linkers.
FROM libtorch AS libraries-cpu
RUN mkdir /opt/libraries && cp .libtorch/lib/*.so* /opt/libraries/ && strip --strip-unneeded /opt/libraries/*

# NVIDIA's own libraries are left as they come.
FROM libtorch AS libraries-cuda
RUN --mount=type=secret,id=settings --mount=type=secret,id=ca with-settings tools/setup cuda \
    && mv /opt/cache/cuda/lib /opt/libraries && strip --strip-unneeded /opt/libraries/libtorch_c*.so /opt/libraries/libc10*.so

FROM libraries-${VARIANT} AS libraries

# The dependencies, in a layer of their own that a change of our source leaves alone. Tests, examples and benches are taken
# out of the manifest: cargo would want their files.
FROM libtorch AS dependencies
ARG FEATURES=otlp
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
# build.rs compiles it.
COPY src/model/engine/shim.cpp src/model/engine/
RUN --mount=type=secret,id=settings --mount=type=secret,id=ca --mount=type=secret,id=cargo-config,target=/usr/local/cargo/config.toml \
    sed -i '/^\[\[\(test\|example\|bench\)\]\]$/,/^$/d' Cargo.toml \
    && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && with-settings cargo build --release --locked --features "$FEATURES" \
    && cargo clean --release --package nats-rerank

FROM dependencies AS build
COPY config config
COPY src src
RUN cargo build --release --locked --offline --features "$FEATURES" && strip --strip-all -o /opt/nats-rerank target/release/nats-rerank

# A model to bake in: a folder of this repository's models/, or a hub id. `builtin` is in every image.
FROM build AS model
ARG MODEL=builtin
ARG MODEL_REVISION=main
COPY models models
COPY deploy/images/bake-model /usr/local/bin/
RUN --mount=type=secret,id=settings --mount=type=secret,id=ca --mount=type=secret,id=hub-token \
    with-settings bake-model "$MODEL" "$MODEL_REVISION" /opt/models

# --- what runs -------------------------------------------------------------------------------------------------------
FROM debian:${DEBIAN_RELEASE}-slim AS base
RUN --mount=type=secret,id=settings --mount=type=secret,id=ca --mount=type=bind,source=deploy/images/with-settings,target=/usr/local/bin/with-settings \
    with-settings sh -c 'apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ca-certificates libstdc++6 >/dev/null' \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* \
    && echo 'nonroot:x:65532:65532:nonroot:/nonexistent:/usr/sbin/nologin' >>/etc/passwd && echo 'nonroot:x:65532:' >>/etc/group \
    && install --directory --owner=65532 --group=65532 /models /var/cache/nats-rerank

FROM build AS parts
ARG VARIANT
COPY tools/sbom tools/sbom
COPY models/builtin models/builtin
COPY --from=base /var/lib/dpkg/status /opt/dpkg-status
# Not offline: cargo wants the crates of tests too before it says who needs whom.
RUN --mount=type=secret,id=settings --mount=type=secret,id=ca --mount=type=secret,id=cargo-config,target=/usr/local/cargo/config.toml \
    with-settings tools/sbom --variant "$VARIANT" --features "$FEATURES" --dpkg-status /opt/dpkg-status >/opt/sbom.cdx.json

FROM scratch AS sbom
COPY --from=parts /opt/sbom.cdx.json /

FROM base AS base-cpu

# What NVIDIA's container toolkit reads: which devices, and which of the driver's libraries.
FROM base AS base-cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM base-${VARIANT} AS image
COPY --from=libraries /opt/libraries/ /usr/local/lib/nats-rerank/
# libtorch opens CUDA's libraries by name alone.
RUN echo /usr/local/lib/nats-rerank >/etc/ld.so.conf.d/nats-rerank.conf && ldconfig
COPY LICENSE /usr/local/share/doc/nats-rerank/
COPY models/builtin /usr/local/share/nats-rerank/models/builtin
COPY --from=model /opt/models/ /models/
COPY --from=build /opt/nats-rerank /usr/local/bin/
COPY --from=parts /opt/sbom.cdx.json /usr/local/share/nats-rerank/
# Where hub models are kept if no setting says otherwise: mount a volume here.
ENV HF_HOME=/var/cache/nats-rerank
USER 65532:65532
# The process lives. Not readiness: a worker that is switched off or full is healthy. The second address is the gateway's. Where
# health.listen or gateway.listen have other ports, say so in a healthcheck of your own.
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s --retries=6 \
    CMD nats-rerank healthcheck --url http://127.0.0.1:9464/livez || nats-rerank healthcheck --url http://127.0.0.1:8080/livez
STOPSIGNAL SIGTERM
ENTRYPOINT ["nats-rerank"]
CMD ["worker"]
# Last, since they change with every build.
ARG VARIANT
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="nats-rerank" \
    org.opencontainers.image.description="NATS workers that rerank search candidates with a cross-encoder, and their HTTP gateway" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.created="$CREATED" \
    nats-rerank.variant="$VARIANT"
