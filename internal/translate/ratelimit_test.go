package translate

import (
	"strings"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
)

func TestWhoIsBehindARefusedRateLimitConfig(t *testing.T) {
	config := func(rules ...string) *ratelimitv3.RateLimitConfig {
		c := &ratelimitv3.RateLimitConfig{Name: "shop/edge", Domain: "shop/edge"}
		for _, rule := range rules {
			id, shadow := strings.CutSuffix(rule, " shadow")
			c.Descriptors = append(c.Descriptors, &ratelimitv3.RateLimitDescriptor{Key: "rule", Value: id, ShadowMode: shadow})
		}
		return c
	}
	refused := config("shop/api/b", "shop/api/a shadow", "shop/api-2/a", "bank/vip/a")
	for _, c := range []struct {
		what, words string
		keeps       *ratelimitv3.RateLimitConfig
		want        string
	}{
		{"named", "shop/edge: duplicate descriptor composite key 'shop/edge.rule_shop/api/b'", nil, "LimitPolicy shop/api"},
		{"named within", "shop/edge: duplicate descriptor composite key 'shop/edge.rule_bank/vip/a.tenant_x'", refused, "LimitPolicy bank/vip"},
		{"changed", "shop/edge: invalid rate limit unit 'WEEK'", config("shop/api/b", "shop/api/a", "shop/api-2/a"), "LimitPolicy bank/vip, LimitPolicy shop/api"},
		{"nothing kept", "shop/edge: descriptor has empty key", nil, "LimitPolicy bank/vip, LimitPolicy shop/api, LimitPolicy shop/api-2"},
		{"nothing changed", "out of memory", refused, ""},
	} {
		if got := strings.Join(PoliciesBehind(c.words, refused, c.keeps), ", "); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}
