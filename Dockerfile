# Ostler's container image: `docker build -t ostler:0.1.0 .`
# scripts/image makes the same image of a binary that is built already.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The list of crates that scanners read is part of a binary of `cargo auditable`, where that can be had.
RUN if cargo install --locked cargo-auditable; then cargo auditable build --release --locked; else cargo build --release --locked; fi
RUN scripts/image-files target/release/ostler /image

FROM scratch
COPY --from=build /image /
ENV PATH=/bin
USER 65532:65532
ENTRYPOINT ["/bin/ostler"]
