package rlsconfig

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Site is where a rule holds.
type Site struct {
	// Route is the value of the part "route".
	Route string
	// Labels of the route's namespace, by label. An empty value is none: Envoy has no empty entries.
	Labels map[string]string
	// Quota says that the bound is to be in the actions, where it can be (HasQuota): it then changes in the
	// same version as the route.
	Quota bool
}

// Actions are what the Envoys do to describe a request at the site: a descriptor by each RateLimit whose
// actions all find a value. There is none where all requests lack a part and are not counted.
//
// With concurrency the second half of them runs when a stream ends, with negative hits: the lease is over.
func (r *Rule) Actions(site Site) []*routev3.RateLimit {
	selectors, err := r.selectors()
	if err != nil {
		return nil
	}
	parts := r.parts()
	var out []*routev3.RateLimit
	if !lacks(parts, site) {
		out = append(out, r.limit(site, r.describe(selectors, r.partActions(parts, site)...)))
	}
	if r.missing() == v1alpha1.MissingGlobal {
		for _, a := range r.missingActions(parts, selectors, site) {
			out = append(out, r.limit(site, a))
		}
	}
	if r.Limit.Concurrency == nil {
		return out
	}
	for _, begin := range slices.Clone(out) {
		end := proto.CloneOf(begin)
		end.HitsAddend = &routev3.RateLimit_HitsAddend{Number: wrapperspb.UInt64(1), IsNegativeHits: true}
		end.ApplyOnStreamDone = true
		out = append(out, end)
	}
	return out
}

// HasQuota says whether the rule's bound can stand in the actions: one rate for all values, in a unit of the
// wire. A rate there would have the reference service forget that the rule is a shadow.
func (r *Rule) HasQuota() bool {
	if r.Scope() != v1alpha1.ScopeFleet || r.Limit.Rate == nil || len(r.Limit.Values) > 0 || r.Shadow() {
		return false
	}
	_, u, ok := perUnit(*r.Limit.Rate)
	return ok && u.length == r.Limit.Rate.Per.Duration
}

func (r *Rule) limit(site Site, actions []*routev3.RateLimit_Action) *routev3.RateLimit {
	out := &routev3.RateLimit{Actions: actions}
	if r.Limit.Concurrency != nil {
		out.XRatelimitOption = routev3.RateLimit_OFF
	}
	if site.Quota && r.HasQuota() {
		requests, u, _ := perUnit(*r.Limit.Rate)
		out.Limit = &routev3.RateLimit_Override{OverrideSpecifier: &routev3.RateLimit_Override_RateLimit{
			RateLimit: &routev3.RateLimit_Override_RateLimitOverride{RequestsPerUnit: requests, Unit: typev3.RateLimitUnit(u.number)},
		}}
	}
	return out
}

// describe is a descriptor's worth of actions around those of the key.
func (r *Rule) describe(selectors []*routev3.HeaderMatcher, key ...*routev3.RateLimit_Action) []*routev3.RateLimit_Action {
	out := []*routev3.RateLimit_Action{genericKey(EntryRule, r.ID)}
	if r.hasWhen(selectors) {
		if len(selectors) == 0 {
			selectors = []*routev3.HeaderMatcher{present(":method")}
		}
		out = append(out, headersMatch(EntryWhen, "true", true, selectors))
	}
	if cel := r.cel(); cel != "" {
		out = append(out, expression(EntryCEL, onlyIf(cel)))
	}
	out = append(out, key...)
	if r.Limit.Concurrency != nil {
		out = append(out, requestHeader(EntryLease, "x-request-id"))
	}
	return out
}

func (r *Rule) cel() string {
	if r.Limit.When == nil || r.Limit.When.CEL == nil {
		return ""
	}
	return *r.Limit.When.CEL
}

// hasWhen says whether the descriptors of the rule have an entry EntryWhen. Those of a key with headers and
// parameters of the query need one under Missing: Global, to tell requests that lack a parameter and no header.
func (r *Rule) hasWhen(selectors []*routev3.HeaderMatcher) bool {
	headers, queries := r.missable(r.parts())
	return len(selectors) > 0 || r.missing() == v1alpha1.MissingGlobal && len(headers) > 0 && len(queries) > 0
}

// missable are what requests may lack and an Envoy can tell.
func (r *Rule) missable(parts []part) (headers []*routev3.HeaderMatcher, queries []*routev3.QueryParameterMatcher) {
	for _, p := range parts {
		switch p.kind {
		case "header":
			headers = append(headers, present(p.arg))
		case "query":
			queries = append(queries, parameter(p.arg, true))
		}
	}
	return headers, queries
}

// missingActions describe the requests that lack a part as one, in ways of which a request meets at most one.
func (r *Rule) missingActions(parts []part, selectors []*routev3.HeaderMatcher, site Site) [][]*routev3.RateLimit_Action {
	if lacks(parts, site) {
		return [][]*routev3.RateLimit_Action{r.describe(selectors, genericKey(EntryMissing, MissingGlobal))}
	}
	var out [][]*routev3.RateLimit_Action
	headers, queries := r.missable(parts)
	if len(headers) > 0 {
		out = append(out, r.describe(selectors, headersMatch(EntryMissing, MissingGlobal, false, headers)))
	}
	if len(queries) > 0 {
		out = append(out, r.describe(append(slices.Clip(selectors), headers...), &routev3.RateLimit_Action{
			ActionSpecifier: &routev3.RateLimit_Action_QueryParameterValueMatch_{QueryParameterValueMatch: &routev3.RateLimit_Action_QueryParameterValueMatch{
				DescriptorKey: EntryMissing, DescriptorValue: MissingGlobal, ExpectMatch: wrapperspb.Bool(false), QueryParameters: queries,
			}},
		}))
	}
	return out
}

func (r *Rule) partActions(parts []part, site Site) []*routev3.RateLimit_Action {
	var out []*routev3.RateLimit_Action
	for _, p := range parts {
		switch p.kind {
		case "header":
			out = append(out, requestHeader(p.entry(), header(p.arg, nil).GetName()))
		case "method":
			out = append(out, requestHeader(p.entry(), ":method"))
		case "query":
			out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_QueryParameters_{
				QueryParameters: &routev3.RateLimit_Action_QueryParameters{QueryParameterName: p.arg, DescriptorKey: p.entry()},
			}})
		case "ip":
			out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_MaskedRemoteAddress_{
				MaskedRemoteAddress: &routev3.RateLimit_Action_MaskedRemoteAddress{
					V4PrefixMaskLen: wrapperspb.UInt32(uint32(p.bits)), V6PrefixMaskLen: wrapperspb.UInt32(ipv6Bits),
				},
			}})
		case "path":
			out = append(out, expression(p.entry(), "request.url_path"))
		case "route":
			out = append(out, genericKey(p.entry(), site.Route))
		case "namespace":
			out = append(out, genericKey(p.entry(), site.Labels[p.arg]))
		case "cel":
			out = append(out, expression(p.entry(), p.arg))
		}
	}
	return out
}

func genericKey(key, value string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: key, DescriptorValue: value},
	}}
}

func requestHeader(key, name string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
		RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{DescriptorKey: key, HeaderName: name},
	}}
}

func headersMatch(key, value string, match bool, headers []*routev3.HeaderMatcher) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_HeaderValueMatch_{
		HeaderValueMatch: &routev3.RateLimit_Action_HeaderValueMatch{
			DescriptorKey: key, DescriptorValue: value, ExpectMatch: wrapperspb.Bool(match), Headers: headers,
		},
	}}
}

// expression describes by the value of a CEL expression, and not at all if it has none.
func expression(key, text string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{
		Extension: &corev3.TypedExtensionConfig{
			Name:        "envoy.rate_limit_descriptors.expr",
			TypedConfig: packed(&exprv3.Descriptor{DescriptorKey: key, ExprSpecifier: &exprv3.Descriptor_Text{Text: text}}),
		},
	}}
}

// onlyIf is true if the condition is, and otherwise has no value: such a request is not described, and the
// rate limit service is not asked about it. The line break ends a comment.
func onlyIf(condition string) string { return "[true][(" + condition + "\n) ? 0 : 1]" }

// packed is a message in an Any, equal messages as equal bytes. One that cannot be packed (a string that is
// not UTF-8) becomes an empty one of its type, which no check lets pass.
func packed(m proto.Message) *anypb.Any {
	out := &anypb.Any{}
	if err := anypb.MarshalFrom(out, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())}
	}
	return out
}
