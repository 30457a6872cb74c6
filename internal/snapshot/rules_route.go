package snapshot

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"evenkeel.io/controlplane/internal/re2"
)

// headerName is a field name of HTTP (RFC 9110, token).
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func checkRoutes(rc *routev3.RouteConfiguration) error {
	domains, expressions := map[string]bool{}, checked{}
	for _, vh := range rc.GetVirtualHosts() {
		for _, d := range vh.GetDomains() {
			if err := checkDomain(d); err != nil {
				return fmt.Errorf("virtual host %q: %w", vh.GetName(), err)
			}
			if lower := strings.ToLower(d); domains[lower] {
				return fmt.Errorf("virtual host %q: domain %q stands twice", vh.GetName(), d)
			}
			domains[strings.ToLower(d)] = true
		}
		for _, r := range vh.GetRoutes() {
			if err := checkRoute(r, expressions); err != nil {
				return fmt.Errorf("route %q: %w", r.GetName(), err)
			}
		}
	}
	return nil
}

// checkDomain allows what Envoy's three kinds of lookup know: a name, one leading or one trailing star.
func checkDomain(d string) error {
	stars := strings.Count(d, "*")
	if d == "" || stars > 1 || stars == 1 && d[0] != '*' && d[len(d)-1] != '*' {
		return fmt.Errorf("domain %q: expected a host name, \"*\", or one with a star at an end", d)
	}
	return nil
}

func checkRoute(r *routev3.Route, expressions checked) error {
	if clusters := r.GetRoute().GetWeightedClusters().GetClusters(); clusters != nil {
		var sum uint64
		for _, c := range clusters {
			sum += uint64(c.GetWeight().GetValue())
		}
		if sum < 1 || sum > math.MaxUint32 {
			return fmt.Errorf("weighted_clusters: the weights add up to %d, expected 1 to 2^32-1", sum)
		}
	}
	for _, t := range []struct {
		field string
		set   interface{ GetSeconds() int64 }
	}{
		{"timeout", r.GetRoute().GetTimeout()},
		{"retry_policy.per_try_timeout", r.GetRoute().GetRetryPolicy().GetPerTryTimeout()},
	} {
		if t.set.GetSeconds() < 0 {
			return fmt.Errorf("%s: is negative", t.field)
		}
	}
	if err := checkExpressions(r); err != nil {
		return err
	}
	if err := checkHeaderChange(r); err != nil {
		return err
	}
	if err := checkRouteLimits(r, expressions); err != nil {
		return err
	}
	for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
		if err := checkHeaderChange(c); err != nil {
			return err
		}
	}
	return nil
}

func checkExpressions(r *routev3.Route) error {
	matchers := []*matcherv3.RegexMatcher{r.GetMatch().GetSafeRegex()}
	for _, h := range r.GetMatch().GetHeaders() {
		m := h.GetStringMatch().GetSafeRegex()
		if h.GetName() == ":path" && m != nil { // of a limit, made of several that a user wrote
			if err := checkRegex(m.GetRegex(), re2.CheckProgram); err != nil {
				return err
			}
			continue
		}
		matchers = append(matchers, m)
	}
	for _, q := range r.GetMatch().GetQueryParameters() {
		matchers = append(matchers, q.GetStringMatch().GetSafeRegex())
	}
	for _, m := range matchers {
		if m != nil {
			if err := checkRegex(m.GetRegex(), re2.Check); err != nil {
				return err
			}
		}
	}
	// A rewrite's expression is ours, made of a literal path.
	return errors.Join(
		checkRegex(r.GetRoute().GetRegexRewrite().GetPattern().GetRegex(), re2.CheckProgram),
		checkRegex(r.GetRedirect().GetRegexRewrite().GetPattern().GetRegex(), re2.CheckProgram),
	)
}

// changesHeaders are the messages of a route that may change headers: itself and its weighted clusters.
type changesHeaders interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToRemove() []string
}

func checkHeaderChange(c changesHeaders) error {
	for _, added := range [][]*corev3.HeaderValueOption{c.GetRequestHeadersToAdd(), c.GetResponseHeadersToAdd()} {
		for _, h := range added {
			if err := checkHeader(h.GetHeader().GetKey()); err != nil {
				return err
			}
		}
	}
	for _, removed := range [][]string{c.GetRequestHeadersToRemove(), c.GetResponseHeadersToRemove()} {
		for _, name := range removed {
			if err := checkHeader(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkRegex(expression string, check func(string) error) error {
	if err := check(expression); err != nil {
		return fmt.Errorf("regular expression %.64q: %w", expression, err)
	}
	return nil
}

// checkHeader refuses to change what Envoy refuses to change, with the whole route configuration.
func checkHeader(name string) error {
	if !headerName.MatchString(name) {
		return fmt.Errorf("header %.64q: is no header name", name)
	}
	if strings.EqualFold(name, "host") {
		return errors.New("header \"Host\": Envoy changes it by a rewrite of the host only")
	}
	return nil
}
