package snapshot

import (
	"errors"
	"fmt"
	"strings"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
)

// checkRateLimits holds a RateLimitConfig to what the reference service accepts (envoyproxy/ratelimit,
// src/config/config_impl.go: loadConfig and loadDescriptors). It refuses all domains for one of them.
func checkRateLimits(c *ratelimitv3.RateLimitConfig) error {
	if c.GetDomain() != c.GetName() {
		return fmt.Errorf("domain: is %q, expected the name %q: the service refuses two of one domain", c.GetDomain(), c.GetName())
	}
	return checkDescriptors("descriptors", c.GetDescriptors())
}

func checkDescriptors(at string, descriptors []*ratelimitv3.RateLimitDescriptor) error {
	var problems []error
	seen := map[string]bool{}
	for i, d := range descriptors {
		at := fmt.Sprintf("%s[%d]", at, i)
		// The service finds a descriptor by the two in one: a key "a" of value "b_c" is a key "a_b" of "c".
		composite := d.GetKey()
		if d.GetValue() != "" {
			composite += "_" + d.GetValue()
		}
		switch {
		case d.GetKey() == "":
			problems = append(problems, fmt.Errorf("%s.key: is empty", at))
		case strings.HasSuffix(composite, "*"):
			problems = append(problems, fmt.Errorf("%s: %q ends with *, which the service takes for any end", at, composite))
		case seen[composite]:
			problems = append(problems, fmt.Errorf("%s: %q stands twice", at, composite))
		}
		seen[composite] = true
		if d.GetRateLimit() != nil {
			if err := checkRate(d.GetRateLimit()); err != nil {
				problems = append(problems, fmt.Errorf("%s.rate_limit.%w", at, err))
			}
		}
		problems = append(problems, checkDescriptors(at+".descriptors", d.GetDescriptors()))
	}
	return errors.Join(problems...)
}

func checkRate(p *ratelimitv3.RateLimitPolicy) error {
	unknown := p.GetUnit() == ratelimitv3.RateLimitUnit_UNKNOWN
	switch {
	case p.GetUnlimited() && !unknown:
		return fmt.Errorf("unit: is %s of a limit that is unlimited, expected none", p.GetUnit())
	case !p.GetUnlimited() && unknown:
		return errors.New("unit: is missing, expected SECOND, MINUTE, HOUR, DAY, MONTH or YEAR")
	}
	for i, r := range p.GetReplaces() {
		if r.GetName() == "" || r.GetName() == p.GetName() {
			return fmt.Errorf("replaces[%d].name: is %q, expected the name of another limit", i, r.GetName())
		}
	}
	return nil
}
