package auth

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"google.golang.org/grpc/credentials"
)

// ReplicaCredentials are what a replica of the control plane dials another with: the certificate that the
// gate shows, of a server whose certificate is signed by an authority that the gate trusts and names a
// replica. The server's host name is not asked for: a replica is dialled by the address of its Pod, which
// no certificate has.
func (g *Gate) ReplicaCredentials() credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: true, // of the host name; verifyReplica sees to the rest
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &g.current().config.Certificates[0], nil
		},
		VerifyConnection: g.verifyReplica,
	})
}

func (g *Gate) verifyReplica(state tls.ConnectionState) error {
	leaf := state.PeerCertificates[0] // TLS 1.3 has no server without one
	options := x509.VerifyOptions{
		Roots: g.current().config.ClientCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		return fmt.Errorf("the other replica's certificate: %w", err)
	}
	if who, err := g.opts.Rules.Of(leaf.DNSNames, leaf.URIs); err != nil || !who.IsReplica() {
		return fmt.Errorf("the server is no replica of the control plane: its certificate does not name %s", g.opts.Rules.OfReplica())
	}
	return nil
}
