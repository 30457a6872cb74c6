// Package identity says which fleets a client may see by the names in its certificate. It is a function of
// names and rules; that the names are the client's is proved elsewhere, in the TLS handshake.
//
// A name permits something if it is one of
//
//	spiffe://<trust domain>/fleet/<namespace>/<gateway>    the fleet of that Gateway
//	spiffe://<trust domain>/eds/<namespace>                the EDS-only fleet eds:<namespace>
//	spiffe://<trust domain>/rls                            the fleet rls: a reference rate limit service
//	spiffe://<trust domain>/replica                        another replica of the control plane; no fleet
//
// or a DNS or URI name that a rule maps to a fleet. All else permits nothing: common names, addresses,
// SPIFFE IDs of other trust domains or in another form.
package identity

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Identity is who a client is and what it may see. It is immutable; nil is nobody.
type Identity struct {
	name    string
	fleets  []string
	replica bool
	anyone  bool
}

// Anyone may see every fleet: the client of a port that asks for no certificates.
var Anyone = &Identity{anyone: true}

// Name is the certificate's name that decided, the URI before DNS names: "spiffe://..." or "dns:...". It is
// "" for Anyone and nobody.
func (i *Identity) Name() string {
	if i == nil {
		return ""
	}
	return i.name
}

// MaySee says whether the client may have the configuration of a fleet and report for it. Whether the fleet
// exists is another question.
func (i *Identity) MaySee(fleet string) bool {
	return i != nil && (i.anyone || slices.Contains(i.fleets, fleet))
}

// IsReplica says whether the client is another replica of the control plane.
func (i *Identity) IsReplica() bool { return i != nil && i.replica }

// String is the name with what it permits, for messages.
func (i *Identity) String() string {
	switch {
	case i == nil:
		return "nobody"
	case i.anyone:
		return "anyone"
	case i.replica && len(i.fleets) == 0:
		return i.name + ", a replica"
	}
	return i.name + ", which may see " + strings.Join(i.fleets, " and ")
}

// Rules turn names into identities. The zero value permits nobody anything.
type Rules struct {
	trustDomain spiffeid.TrustDomain
	mapped      map[string][]string // fleets by "dns:<name>" or "uri:<name>"
}

// ParseRules makes rules of a trust domain, such as cluster.local, and of mappings "dns:<name>=<fleet>" and
// "uri:<name>=<fleet>", where a fleet is <namespace>/<gateway>, eds:<namespace> or rls. A name may be mapped to
// several fleets, one mapping for each.
func ParseRules(trustDomain string, mappings ...string) (Rules, error) {
	domain, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil || strings.Contains(trustDomain, "/") {
		return Rules{}, fmt.Errorf("trust domain %q: expected a name in lower case, such as cluster.local", trustDomain)
	}
	rules := Rules{trustDomain: domain, mapped: map[string][]string{}}
	for _, mapping := range mappings {
		name, fleet, err := parseMapping(mapping)
		if err != nil {
			return Rules{}, err
		}
		if fleets := rules.mapped[name]; !slices.Contains(fleets, fleet) {
			rules.mapped[name] = append(fleets, fleet)
		}
	}
	return rules, nil
}

func parseMapping(mapping string) (name, fleet string, err error) {
	split := strings.LastIndexByte(mapping, '=') // a URI may have more of them
	if split < 0 {
		return "", "", fmt.Errorf("identity %q: expected dns:NAME=FLEET or uri:URI=FLEET, such as dns:envoy.shop.svc=shop/edge", mapping)
	}
	name, fleet = mapping[:split], mapping[split+1:]
	if !isFleet(fleet) {
		return "", "", fmt.Errorf("identity %q: fleet %q: expected <namespace>/<gateway>, eds:<namespace> for endpoints only, or rls for a rate limit service", mapping, fleet)
	}
	kind, text, _ := strings.Cut(name, ":")
	switch kind {
	case "dns":
		name = dnsName(text)
		if len(validation.IsDNS1123Subdomain(strings.TrimPrefix(name, "dns:"))) > 0 {
			return "", "", fmt.Errorf("identity %q: expected a DNS name after dns:, such as envoy.shop.svc, without wildcards", mapping)
		}
		return name, fleet, nil
	case "uri":
		uri, err := url.Parse(text)
		if err != nil || uri.Scheme == "" || uri.Host == "" {
			return "", "", fmt.Errorf("identity %q: expected a URI after uri:, such as spiffe://cluster.local/ns/shop/sa/envoy", mapping)
		}
		return uriName(uri), fleet, nil
	}
	return "", "", fmt.Errorf("identity %q: expected dns: or uri: at its beginning", mapping)
}

// dnsName and uriName are the keys of Rules.mapped.
func dnsName(name string) string  { return "dns:" + strings.ToLower(strings.TrimSuffix(name, ".")) }
func uriName(uri *url.URL) string { return "uri:" + uri.String() }

// Of is who a client is by the DNS and URI names of its verified certificate: the sum of what each name
// permits, which is at least something. Otherwise the error says which names there were and what was
// expected. A certificate with several URIs permits nothing: a SPIFFE identity is one name.
func (r Rules) Of(dns []string, uris []*url.URL) (*Identity, error) {
	if len(uris) > 1 {
		return nil, fmt.Errorf("the certificate has %d URI names: expected one at most", len(uris))
	}
	var who Identity
	permit := func(name, key string) {
		fleets := r.mapped[key]
		if len(fleets) > 0 && who.name == "" {
			who.name = name
		}
		who.fleets = append(who.fleets, fleets...)
	}
	for _, uri := range uris {
		if fleet, replica := r.spiffe(uri); fleet != "" || replica {
			who.name, who.replica = uri.String(), replica
			if fleet != "" {
				who.fleets = []string{fleet}
			}
		}
		permit(uri.String(), uriName(uri))
	}
	for _, name := range dns {
		permit(dnsName(name), dnsName(name))
	}
	if who.name == "" {
		return nil, r.nobody(dns, uris)
	}
	slices.Sort(who.fleets)
	who.fleets = slices.Compact(who.fleets)
	return &who, nil
}

// spiffe is what a SPIFFE ID of our trust domain permits.
func (r Rules) spiffe(uri *url.URL) (fleet string, replica bool) {
	id, err := spiffeid.FromURI(uri)
	if err != nil || r.trustDomain.IsZero() || !id.MemberOf(r.trustDomain) {
		return "", false
	}
	switch path := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/"); {
	case len(path) == 3 && path[0] == "fleet":
		fleet = path[1] + "/" + path[2]
	case len(path) == 2 && path[0] == "eds":
		fleet = "eds:" + path[1]
	case len(path) == 1 && path[0] == RateLimitFleet:
		fleet = RateLimitFleet
	default:
		return "", len(path) == 1 && path[0] == "replica"
	}
	if !isFleet(fleet) {
		return "", false
	}
	return fleet, false
}

// OfFleet is the SPIFFE ID that permits a fleet.
func (r Rules) OfFleet(fleet string) (*url.URL, error) {
	if !isFleet(fleet) {
		return nil, fmt.Errorf("fleet %q: expected <namespace>/<gateway>, eds:<namespace> for endpoints only, or rls for a rate limit service", fleet)
	}
	segments := append([]string{"fleet"}, strings.Split(fleet, "/")...)
	if namespace, ok := strings.CutPrefix(fleet, "eds:"); ok {
		segments = []string{"eds", namespace}
	} else if fleet == RateLimitFleet {
		segments = []string{RateLimitFleet}
	}
	id, err := spiffeid.FromSegments(r.trustDomain, segments...)
	if err != nil {
		return nil, fmt.Errorf("fleet %q: %w", fleet, err)
	}
	return id.URL(), nil
}

// OfReplica is the SPIFFE ID of a replica.
func (r Rules) OfReplica() *url.URL {
	return spiffeid.RequireFromSegments(r.trustDomain, "replica").URL()
}

// RateLimitFleet is the fleet of reference rate limit services, who see the limits of all fleets.
const RateLimitFleet = "rls"

func isFleet(fleet string) bool {
	if fleet == RateLimitFleet {
		return true
	}
	if namespace, ok := strings.CutPrefix(fleet, "eds:"); ok {
		return len(validation.IsDNS1123Label(namespace)) == 0
	}
	namespace, gateway, ok := strings.Cut(fleet, "/")
	return ok && len(validation.IsDNS1123Label(namespace)) == 0 && len(validation.IsDNS1123Subdomain(gateway)) == 0
}

// maxNames and maxName bound what a message repeats of a certificate.
const maxNames, maxName = 4, 100

func (r Rules) nobody(dns []string, uris []*url.URL) error {
	var names []string
	for _, uri := range uris {
		names = append(names, uri.String())
	}
	for _, name := range dns {
		names = append(names, "dns:"+name)
	}
	has := "has no DNS or URI name"
	if len(names) > 0 {
		var quoted []string
		for _, name := range names[:min(len(names), maxNames)] {
			quoted = append(quoted, fmt.Sprintf("%.*q", maxName, name))
		}
		has = "names " + strings.Join(quoted, ", ")
		if more := len(names) - maxNames; more > 0 {
			has += fmt.Sprintf(" and %d more", more)
		}
		has += ", which permits nothing"
	}
	return fmt.Errorf("the certificate %s: expected the URI spiffe://%s/fleet/<namespace>/<gateway> or spiffe://%[2]s/eds/<namespace>, or a name that the control plane maps to a fleet",
		has, r.trustDomain.Name())
}
