package catalog

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// anyHost is the domain of all hosts; in Gateway API it is a hostname left out.
const anyHost = "*"

// hostnameProblem says what is wrong with a hostname, "" if nothing is.
func hostnameProblem(h string) string {
	base, wildcard := strings.CutPrefix(h, "*.")
	if len(validation.IsValidIP(nil, base)) == 0 {
		return "is an IP address; expected a DNS name"
	}
	problems := validation.IsDNS1123Subdomain(base)
	if wildcard {
		problems = validation.IsWildcardDNS1123Subdomain(h)
	}
	if len(problems) > 0 {
		return "is no DNS name in lower case; expected one such as shop.example.com or *.example.com"
	}
	return ""
}

// covers says whether every host of the domain b is one of the domain a.
func covers(a, b string) bool {
	if a == anyHost || a == b {
		return true
	}
	suffix, wildcard := strings.CutPrefix(a, "*")
	return wildcard && strings.HasSuffix(b, suffix)
}

// intersect is the domain of the hosts that both domains have. Domains are nested or apart, so it is
// the narrower of the two.
func intersect(a, b string) (string, bool) {
	switch {
	case covers(a, b):
		return b, true
	case covers(b, a):
		return a, true
	}
	return "", false
}

// compareDomains puts the more specific domain first: exact names, then wildcards by their number of
// labels, then "*".
func compareDomains(a, b string) int {
	class := domainClass(a)
	order := cmp.Compare(class, domainClass(b))
	if order == 0 && class == 1 {
		order = cmp.Compare(strings.Count(b, "."), strings.Count(a, "."))
	}
	return cmp.Or(order, strings.Compare(a, b))
}

func domainClass(d string) int {
	switch {
	case d == anyHost:
		return 2
	case strings.HasPrefix(d, "*."):
		return 1
	}
	return 0
}
