package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/credentials"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/identity"
)

// Certificates are one self-signed certificate, its key, both PEM, and the authority of both sides of
// mutual TLS.
type Certificates struct {
	Certificate, Key []byte
}

func newCertificates() (*Certificates, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "benchmark"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"benchmark"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	encodedKey, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &Certificates{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encodedKey}),
	}, nil
}

func (c *Certificates) config() (*tls.Config, *x509.CertPool, error) {
	pair, err := tls.X509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, nil, err
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(c.Certificate)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}, authorities, nil
}

func (c *Certificates) server() (credentials.TransportCredentials, error) {
	config, authorities, err := c.config()
	if err != nil {
		return nil, err
	}
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, authorities
	return credentials.NewTLS(config), nil
}

// gate is what the product lets clients in by; it reads files.
func (c *Certificates) gate() (*auth.Gate, error) {
	dir, err := os.MkdirTemp("", "delivery-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, content := range map[string][]byte{"tls.crt": c.Certificate, "tls.key": c.Key, "ca.crt": c.Certificate} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	rules, err := identity.ParseRules("cluster.local", "dns:benchmark="+fleet)
	if err != nil {
		return nil, err
	}
	return auth.Open(auth.Options{Dir: dir, Rules: rules})
}

func (c *Certificates) client() (credentials.TransportCredentials, error) {
	config, authorities, err := c.config()
	if err != nil {
		return nil, err
	}
	config.RootCAs = authorities
	return credentials.NewTLS(config), nil
}
