# alignkit in a container. Not built by CI (CONTRIBUTING.md).
#   docker build -t alignkit . && docker run --rm -v "$PWD/runs:/alignkit/runs" alignkit make quickstart
FROM rust:1-slim-bookworm AS rust

FROM python:3.11-bookworm
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
WORKDIR /alignkit
COPY . .
RUN make setup
ENV PATH=/alignkit/.venv/bin:$PATH
CMD ["alignkit", "--help"]
