package snapshot

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"evenkeel.io/controlplane/internal/translate"
)

// maxRegexLength bounds an expression that a user wrote. Envoy compiles each on every worker and tries
// it on every request that gets so far. A rewrite's expression is ours, made of a literal path.
const maxRegexLength, maxRewriteLength = 256, 4096

// headerName is a field name of HTTP (RFC 9110, token).
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

func checkRoutes(rc *routev3.RouteConfiguration) error {
	domains := map[string]bool{}
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
			if err := checkRoute(r); err != nil {
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

func checkRoute(r *routev3.Route) error {
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
		matchers = append(matchers, h.GetStringMatch().GetSafeRegex())
	}
	for _, q := range r.GetMatch().GetQueryParameters() {
		matchers = append(matchers, q.GetStringMatch().GetSafeRegex())
	}
	for _, m := range matchers {
		if m != nil {
			if err := checkRegex(m.GetRegex(), maxRegexLength); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		checkRegex(r.GetRoute().GetRegexRewrite().GetPattern().GetRegex(), maxRewriteLength),
		checkRegex(r.GetRedirect().GetRegexRewrite().GetPattern().GetRegex(), maxRewriteLength),
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

func checkRegex(expression string, limit int) error {
	if n := len(expression); n > limit {
		return fmt.Errorf("regular expression has %d bytes, expected at most %d", n, limit)
	}
	size, err := programSize(expression)
	if err != nil {
		return fmt.Errorf("regular expression %.64q: %w", expression, err)
	}
	if size > translate.MaxRegexProgram {
		return fmt.Errorf("regular expression %.64q: compiles to some %d instructions, expected at most %d", expression, size, translate.MaxRegexProgram)
	}
	return nil
}

// programSize is no less than the size of the RE2 program that Envoy compiles the expression to, and
// refuses by. Go's programs differ from RE2's in that a class of characters is one instruction and not
// one per range of bytes; a range beyond ASCII takes RE2 up to about eight.
func programSize(expression string) (int, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, err
	}
	const beyondASCII = 8
	size := len(program.Inst)
	for _, inst := range program.Inst {
		switch inst.Op {
		case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			size += beyondASCII
		case syntax.InstRune, syntax.InstRune1:
			if folds := syntax.Flags(inst.Arg)&syntax.FoldCase != 0; folds || len(inst.Rune) == 1 && inst.Rune[0] > unicode.MaxASCII {
				size += beyondASCII
			}
			for i := 1; i < len(inst.Rune); i += 2 {
				size++
				if inst.Rune[i] > unicode.MaxASCII {
					size += beyondASCII
				}
			}
		}
	}
	return size, nil
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
