package rlsconfig

import (
	"fmt"
	"math"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// unit is a unit of time that rates have on the wire. Its number is that of envoy.type.v3.RateLimitUnit and
// of the reference service's RateLimitUnit.
type unit struct {
	number int32
	length time.Duration
}

var units = []unit{{1, time.Second}, {2, time.Minute}, {3, time.Hour}, {4, 24 * time.Hour}}

// perUnit is a rate in a unit: its own, or else the smallest in which it is a whole number.
func perUnit(rate v1alpha1.Rate) (requests uint32, u unit, ok bool) {
	for _, u := range units {
		if u.length == rate.Per.Duration && rate.Requests > 0 && rate.Requests <= math.MaxUint32 {
			return uint32(rate.Requests), u, true
		}
	}
	per := int64(rate.Per.Duration / time.Second)
	if per <= 0 || rate.Requests <= 0 || rate.Requests > math.MaxUint32 {
		return 0, unit{}, false
	}
	for _, u := range units {
		n := rate.Requests * int64(u.length/time.Second) // less than 2^32 times 86,400
		if n%per == 0 && n/per <= math.MaxUint32 {
			return uint32(n / per), u, true
		}
	}
	return 0, unit{}, false
}

func portable(rate v1alpha1.Rate) bool {
	_, _, ok := perUnit(rate)
	return ok
}

// unportable says why a rate is not portable, beginning with its field.
func unportable(rate v1alpha1.Rate) string {
	return fmt.Sprintf("per: %d in %s are no whole number in a second, minute, hour or day, the units that rate limit services know; expected one of them, or a number that it makes whole",
		rate.Requests, rate.Per.Duration)
}
