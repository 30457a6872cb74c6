package weights

import "evenkeel.io/controlplane/internal/signals"

// staticLaw looks at no reading: w = base * multiplier.
type staticLaw struct{}

func (staticLaw) needs() signals.Terms { return 0 }
func (staticLaw) absent() string       { return "" }
func (staticLaw) stages() []stage      { return []stage{startFromBase, applyMultiplier} }
