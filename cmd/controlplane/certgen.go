package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/internal/auth/identity"
	"evenkeel.io/controlplane/internal/auth/pki"
	"evenkeel.io/controlplane/internal/translate"
)

const (
	defaultTrustDomain = "cluster.local"
	defaultNamespace   = "evenkeel-system"

	defaultLifetime = 365 * 24 * time.Hour
	minLifetime     = 10 * time.Minute
)

// certgenOptions are the flags of certgen.
type certgenOptions struct {
	dir         string
	serverNames []string
	fleets      []string
	trustDomain string
	lifetime    time.Duration
	rotate      bool
	secrets     bool
	namespace   string
}

func newCertgenCommand() *cobra.Command {
	var o certgenOptions
	cmd := &cobra.Command{
		Use:   "certgen --dir DIR [--fleet NAMESPACE/GATEWAY ...]",
		Short: "make certificates for the xDS port and its Envoys",
		Long: `certgen keeps an authority and its certificates in a folder, for those who have nothing that does it for
them, such as cert-manager or SPIRE:

  DIR/authority/               ca.crt and ca.key; whoever has the key can be any fleet: keep it away from both ends
  DIR/server/                  tls.crt, tls.key, ca.crt for serve --xds-tls-dir
  DIR/fleet/NAMESPACE/GATEWAY/ the same for the Envoys of a fleet, bootstrap --tls-dir
  DIR/eds/NAMESPACE/           the same for those of --fleet eds:NAMESPACE
  DIR/rls/                     the same for a reference rate limit service, --fleet rls

Run it again at any time: it keeps the authority and what is good, renews what has less than a third of its
lifetime left, and makes what is new. Running serve and Envoys take up the new files by themselves.

With --secrets it also prints the certificates as Secrets for kubectl apply, without the authority's key.

--rotate-authority changes the authority in three runs, each of which says what comes next: trust a second
one, sign with it, trust it alone. Between two runs the files must have reached everybody.`,
		Example: `  controlplane certgen --dir pki --fleet shop/edge --fleet eds:shop
  controlplane certgen --dir pki                       # renew what needs it: a job for once a day
  controlplane certgen --dir pki --server-name evenkeel.infra,10.0.0.7
  controlplane certgen --dir pki --fleet shop/edge --secrets | kubectl apply -f -
  controlplane certgen --dir pki --rotate-authority    # three times, with time in between`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			told := cmd.OutOrStdout()
			if o.secrets {
				told = cmd.ErrOrStderr()
			}
			if o.dir == "" {
				return usageError(errors.New("--dir is missing: name a folder to keep the authority and the certificates in"))
			}
			if o.lifetime < minLifetime {
				return usageError(fmt.Errorf("--lifetime %v: expected %v or more", o.lifetime, minLifetime))
			}
			folder := pki.Folder{Dir: o.dir, Lifetime: o.lifetime, Now: time.Now(), Told: told, KeepNames: !cmd.Flags().Changed("server-name")}
			if known := pki.TrustDomain(o.dir); known != "" && !cmd.Flags().Changed("trust-domain") {
				o.trustDomain = known
			}
			var err error
			if folder.Rules, err = identity.ParseRules(o.trustDomain); err != nil {
				return usageError(fmt.Errorf("--trust-domain: %w", err))
			}
			if folder.DNS, folder.IPs, err = splitNames(commaSeparated(o.serverNames)); err != nil {
				return err
			}
			fleets := commaSeparated(o.fleets)
			for _, fleet := range fleets {
				if _, err := folder.Rules.OfFleet(fleet); err != nil {
					return usageError(fmt.Errorf("--fleet: %w", err))
				}
			}
			kept, err := folder.Keep(fleets, o.rotate)
			if err != nil {
				return refusedError(err)
			}
			if kept.Next != "" {
				fmt.Fprintln(told, kept.Next)
			}
			if o.secrets {
				return printSecrets(cmd.OutOrStdout(), kept, o.namespace)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.dir, "dir", "", "the folder of the authority and the certificates (required)")
	flags.StringArrayVar(&o.fleets, "fleet", nil, "make a certificate for a fleet, NAMESPACE/GATEWAY, eds:NAMESPACE or rls (repeatable, or separated by commas)")
	flags.StringArrayVar(&o.serverNames, "server-name", []string{"evenkeel." + defaultNamespace + ".svc", "localhost", "127.0.0.1", "::1"},
		"a DNS name or address by which Envoys reach the server (repeatable, or separated by commas); a later run keeps those there are")
	flags.StringVar(&o.trustDomain, "trust-domain", defaultTrustDomain, "the SPIFFE trust domain, as in serve --xds-trust-domain; a later run keeps the one there is")
	flags.DurationVar(&o.lifetime, "lifetime", defaultLifetime, "how long certificates are valid; the authority is for ten years")
	flags.BoolVar(&o.rotate, "rotate-authority", false, "go one step of three towards another authority")
	flags.BoolVar(&o.secrets, "secrets", false, "print Secrets with the certificates, keys included, as YAML")
	flags.StringVar(&o.namespace, "namespace", defaultNamespace, "the namespace of the server's Secret, and of rls's")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// printSecrets prints what is in the folder as Secrets, as they are mounted for --xds-tls-dir and --tls-dir.
func printSecrets(out io.Writer, kept *pki.Kept, namespace string) error {
	for _, c := range kept.Certificates {
		secret := &corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "evenkeel-server", Labels: map[string]string{"app.kubernetes.io/part-of": "evenkeel"}},
			Type:       corev1.SecretTypeTLS,
			Data:       map[string][]byte{"tls.crt": c.Certificate, "tls.key": c.Key, "ca.crt": kept.Trusted},
		}
		if c.Fleet != "" {
			of, name := secretOf(c.Fleet)
			secret.Namespace, secret.Name = cmp.Or(of, namespace), name
		}
		text, err := yaml.Marshal(secret)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

// secretOf is where the Secret of a fleet's certificate belongs; no namespace is the server's.
func secretOf(fleet string) (namespace, name string) {
	if fleet == translate.RLSFleet {
		return "", "evenkeel-rls"
	}
	if namespace, ok := translate.EDSOnly(fleet); ok {
		return namespace, "evenkeel-eds"
	}
	namespace, gateway, _ := strings.Cut(fleet, "/")
	return namespace, "evenkeel-fleet-" + gateway
}

// splitNames tells addresses from DNS names.
func splitNames(names []string) (dns []string, ips []net.IP, err error) {
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
			continue
		}
		if !isDNSName(name) {
			return nil, nil, usageError(fmt.Errorf("--server-name %q: expected a DNS name or an IP address", name))
		}
		dns = append(dns, name)
	}
	return dns, ips, nil
}

func isDNSName(name string) bool {
	return len(validation.IsDNS1123Subdomain(name)) == 0 || len(validation.IsWildcardDNS1123Subdomain(name)) == 0
}
