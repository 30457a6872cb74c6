package snapshot

import (
	"errors"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/internal/celx"
	"evenkeel.io/controlplane/internal/re2"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/translate"
)

const (
	// maxStage is the highest that filters of rate limits tell apart.
	maxStage = 10
	// maxDirectBody is what Envoy takes for the body of a direct response, in bytes.
	maxDirectBody = 4096
	// minFill is the shortest time between two fills of a token bucket that Envoy takes.
	minFill = 50 * time.Millisecond
)

// checkLimits wants a list of rules that the rate limit service can read.
func checkLimits(list *structpb.Struct) error {
	_, err := rlsconfig.Decode(list)
	return err
}

// Rules are those of a fleet's list of them, which was read when it was validated; none if r is nil or no such list.
func (r *Resource) Rules() []*rlsconfig.Rule {
	if r == nil || r.Type != translate.Limits {
		return nil
	}
	list, _ := r.Message().(*structpb.Struct)
	rules, _ := rlsconfig.Decode(list)
	return rules
}

// checkExtension checks the content of a filter slot.
func checkExtension(e *corev3.TypedExtensionConfig) error {
	content := e.GetTypedConfig()
	if content.GetTypeUrl() == "" {
		return errors.New("typed_config: is empty")
	}
	local, global := &localratelimitv3.LocalRateLimit{}, &ratelimitv3.RateLimit{}
	switch {
	case content.MessageIs(local):
		if err := content.UnmarshalTo(local); err != nil {
			return fmt.Errorf("typed_config: %w", err)
		}
		return checkBuckets(local)
	case content.MessageIs(global):
		if err := content.UnmarshalTo(global); err != nil {
			return fmt.Errorf("typed_config: %w", err)
		}
		if global.GetRateLimitService().GetGrpcService() == nil {
			return errors.New("rate_limit_service: is missing, and everything would pass")
		}
	}
	return nil
}

// checkBuckets: Envoy refuses two buckets of the same entries, and times between fills that the filter's own
// does not divide.
func checkBuckets(l *localratelimitv3.LocalRateLimit) error {
	tick := l.GetTokenBucket().GetFillInterval().AsDuration()
	if tick < minFill {
		return fmt.Errorf("token_bucket.fill_interval: is %s, expected %s or more", tick, minFill)
	}
	seen := map[string]bool{}
	for i, d := range l.GetDescriptors() {
		var id strings.Builder
		for _, e := range d.GetEntries() {
			fmt.Fprintf(&id, "%q=%q ", e.GetKey(), e.GetValue())
		}
		if seen[id.String()] {
			return fmt.Errorf("descriptors[%d]: %sstands twice", i, &id)
		}
		seen[id.String()] = true
		if fill := d.GetTokenBucket().GetFillInterval().AsDuration(); fill < tick || fill%tick != 0 {
			return fmt.Errorf("descriptors[%d].token_bucket.fill_interval: is %s, expected a multiple of %s", i, fill, tick)
		}
	}
	return nil
}

// checked is what is wrong with CEL expressions, by text: those of a limit stand on each route that it holds on.
type checked map[string]error

// checkRouteLimits checks what a route says of rate limits, in its action and in what it configures of filters,
// its own and its weighted clusters'.
func checkRouteLimits(r *routev3.Route, expressions checked) error {
	if body := r.GetDirectResponse().GetBody().GetInlineString(); len(body) > maxDirectBody {
		return fmt.Errorf("direct_response.body: has %d bytes, Envoy takes %d", len(body), maxDirectBody)
	}
	for i, l := range r.GetRoute().GetRateLimits() {
		at := fmt.Sprintf("rate_limits[%d]", i)
		if l.GetHitsAddend() != nil || l.GetApplyOnStreamDone() {
			return fmt.Errorf("%s: says what only a filter's own configuration may, hits_addend or apply_on_stream_done", at)
		}
		if err := checkRateLimit(l, expressions); err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
	}
	if err := checkFilters(r.GetTypedPerFilterConfig(), expressions); err != nil {
		return err
	}
	for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
		if err := checkFilters(c.GetTypedPerFilterConfig(), expressions); err != nil {
			return fmt.Errorf("cluster %q: %w", c.GetName(), err)
		}
	}
	return nil
}

func checkFilters(configs map[string]*anypb.Any, expressions checked) error {
	for name, packed := range configs {
		config := &ratelimitv3.RateLimitPerRoute{}
		if packed.GetTypeUrl() == "" {
			return fmt.Errorf("typed_per_filter_config[%s]: is empty", name)
		}
		if !packed.MessageIs(config) {
			continue
		}
		if err := packed.UnmarshalTo(config); err != nil {
			return fmt.Errorf("typed_per_filter_config[%s]: %w", name, err)
		}
		for i, l := range config.GetRateLimits() {
			at := fmt.Sprintf("typed_per_filter_config[%s].rate_limits[%d]", name, i)
			if l.GetStage() != nil {
				return fmt.Errorf("%s.stage: has no meaning there", at)
			}
			if err := checkRateLimit(l, expressions); err != nil {
				return fmt.Errorf("%s.%w", at, err)
			}
		}
	}
	return nil
}

func checkRateLimit(l *routev3.RateLimit, expressions checked) error {
	if l.GetStage().GetValue() > maxStage {
		return fmt.Errorf("stage: is %d, expected at most %d", l.GetStage().GetValue(), maxStage)
	}
	for i, a := range l.GetActions() {
		if err := checkAction(a, expressions); err != nil {
			return fmt.Errorf("actions[%d]: %w", i, err)
		}
	}
	return nil
}

func checkAction(a *routev3.RateLimit_Action, expressions checked) error {
	headers := a.GetHeaderValueMatch().GetHeaders()
	if name := a.GetRequestHeaders().GetHeaderName(); name != "" {
		if err := checkRequestHeader(name); err != nil {
			return err
		}
	}
	for _, h := range headers {
		if err := checkRequestHeader(h.GetName()); err != nil {
			return err
		}
		if m := h.GetStringMatch().GetSafeRegex(); m != nil {
			if err := checkRegex(m.GetRegex(), re2.CheckProgram); err != nil {
				return err
			}
		}
	}
	if a.GetExtension() == nil {
		return nil
	}
	d := &exprv3.Descriptor{}
	if err := a.GetExtension().GetTypedConfig().UnmarshalTo(d); err != nil {
		return fmt.Errorf("extension: %w", err)
	}
	problem, known := expressions[d.GetText()]
	if !known {
		problem = celx.Made(d.GetText())
		expressions[d.GetText()] = problem
	}
	if problem != nil {
		return fmt.Errorf("CEL expression %.64q: %w", d.GetText(), problem)
	}
	return nil
}

// checkRequestHeader allows the pseudo-headers that Envoy gives the parts of a request.
func checkRequestHeader(name string) error {
	switch name {
	case ":method", ":path", ":authority", ":scheme":
		return nil
	}
	if !headerName.MatchString(name) {
		return fmt.Errorf("header %.64q: is no header name", name)
	}
	return nil
}
