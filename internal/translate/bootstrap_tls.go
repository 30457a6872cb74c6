package translate

import (
	"errors"
	"fmt"
	"net/netip"
	"path"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// The files of BootstrapOptions.TLSDir, called as Kubernetes calls them in a Secret.
const (
	tlsCertificate = "tls.crt"
	tlsKey         = "tls.key"
	tlsAuthority   = "ca.crt"
)

// The files of BootstrapOptions.SDSDir, and the secrets in them.
const (
	sdsCertificate = "sds-certificate.yaml"
	sdsAuthority   = "sds-authority.yaml"

	certificateSecret = "xds-certificate"
	authoritySecret   = "xds-authority"
)

// SDS makes the files of o.SDSDir, by name. Each names files of o.TLSDir and has Envoy look at them again
// when something is moved there, which is how Kubernetes replaces the files of a Secret. They cannot be
// part of the bootstrap: Envoy watches files for secrets that it discovered, and for no others.
func SDS(o BootstrapOptions) (map[string][]byte, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.TLSDir == "" {
		return nil, errors.New("TLS directory: expected one")
	}
	files := map[string][]byte{}
	for name, secret := range map[string]*tlsv3.Secret{
		sdsCertificate: {Name: certificateSecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: o.certificate()}},
		sdsAuthority:   {Name: authoritySecret, Type: &tlsv3.Secret_ValidationContext{ValidationContext: o.authority()}},
	} {
		response := &discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{anyOf(secret)}}
		if err := secret.ValidateAll(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		var err error
		if files[name], err = toYAML(response); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return files, nil
}

// referenceService is the name in the certificate of a reference rate limit service: a SPIFFE ID of whatever trust
// domain the authority signs for, which is the control plane's.
var referenceService = &tlsv3.SubjectAltNameMatcher{
	SanType: tlsv3.SubjectAltNameMatcher_URI,
	Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "spiffe://[^/]+/rls"}}},
}

// transportSocket is mutual TLS with the control plane, or with whoever else has one of the names.
func (o BootstrapOptions) transportSocket(others ...*tlsv3.SubjectAltNameMatcher) *corev3.TransportSocket {
	san := &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_IP_ADDRESS, Matcher: exactly(o.XDSHost)}
	sni := ""
	if _, notIP := netip.ParseAddr(o.XDSHost); notIP != nil {
		san.SanType, sni = tlsv3.SubjectAltNameMatcher_DNS, o.XDSHost
	}
	server := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: append(others, san)}
	common := &tlsv3.CommonTlsContext{
		TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
		AlpnProtocols: []string{"h2"},
	}
	if o.SDSDir == "" {
		server.TrustedCa = file(o.TLSDir, tlsAuthority)
		certificate := o.certificate()
		certificate.WatchedDirectory = nil // of no effect here
		common.TlsCertificates = []*tlsv3.TlsCertificate{certificate}
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: server}
	} else {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{o.sds(certificateSecret, sdsCertificate)}
		common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: server, ValidationContextSdsSecretConfig: o.sds(authoritySecret, sdsAuthority),
		}}
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: anyOf(&tlsv3.UpstreamTlsContext{Sni: sni, CommonTlsContext: common})},
	}
}

func (o BootstrapOptions) certificate() *tlsv3.TlsCertificate {
	return &tlsv3.TlsCertificate{
		CertificateChain: file(o.TLSDir, tlsCertificate), PrivateKey: file(o.TLSDir, tlsKey),
		WatchedDirectory: &corev3.WatchedDirectory{Path: o.TLSDir},
	}
}

func (o BootstrapOptions) authority() *tlsv3.CertificateValidationContext {
	return &tlsv3.CertificateValidationContext{
		TrustedCa: file(o.TLSDir, tlsAuthority), WatchedDirectory: &corev3.WatchedDirectory{Path: o.TLSDir},
	}
}

// sds is a secret discovered from a file.
func (o BootstrapOptions) sds(secret, name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: secret, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
			Path: path.Join(o.SDSDir, name),
		}},
	}}
}

func file(dir, name string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path.Join(dir, name)}}
}
