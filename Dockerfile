# The control plane alone: no shell, no libraries, a user that is not root. Equal sources give an equal
# program whoever builds it and where (no paths, no build id, no state of a work tree are in it), and with
# SOURCE_DATE_EPOCH set BuildKit gives an equal image.
FROM --platform=$BUILDPLATFORM golang:1.26.8-trixie AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS=linux TARGETARCH=amd64
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
  CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
  go build -trimpath -buildvcs=false -tags grpcnotrace -ldflags="-s -w -buildid=" -o /out/controlplane ./cmd/controlplane

FROM gcr.io/distroless/static-debian13:nonroot
# On PATH, for kubectl exec deploy/evenkeel-controlplane -- controlplane services
COPY --from=build /out/controlplane /usr/local/bin/controlplane
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/controlplane"]
CMD ["serve"]
