package weights

import (
	"hash/fnv"
	"math"
	"time"
)

// sampleReference keeps the hour's record of each endpoint's capacity, against which health_score and
// qps_decay_factor are told. It samples once a minute, endpoints at different seconds of it.
func sampleReference(t *tick) {
	for i := range t.m.members {
		if e := &t.m.members[i]; e.Measured && e.reading != nil {
			h := fnv.New32a()
			h.Write([]byte(e.Address))
			e.Reference.Observe(t.now, time.Duration(h.Sum32()%60)*time.Second, math.Exp(e.X))
		}
	}
}
