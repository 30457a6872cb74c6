package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/source"
)

// unweighed is shop without its policy.
func unweighed(name string, n int) string {
	all := strings.Split(shop(name, n), "---\n")
	kept := all[:0]
	for _, document := range all {
		if !strings.Contains(document, "kind: BalancePolicy") {
			kept = append(kept, document)
		}
	}
	return strings.Join(kept, "---\n")
}

// TestWhatNobodyWeighsIsNotRemembered: without a policy a service has equal weights and no state; with one it has
// both, and when the policy goes the estimates stay for its return.
func TestWhatNobodyWeighsIsNotRemembered(t *testing.T) {
	const cart = "shop/cart:80"
	c := testCore(lastgood.State{})
	rebuild := func(document string) {
		t.Helper()
		c.rebuild(start, source.Update{Store: store(t, gateway, document)})
		d, ok := c.view(nil).Decisions(cart)
		if !ok || len(d.Endpoints) != 2 || d.Endpoints[0].Weight != 1000 || d.Endpoints[1].Weight != 1000 {
			t.Fatalf("decided %+v, %v; want 1000 for both endpoints", d, ok)
		}
		if pushes := c.view(nil).Pushes(cart); len(pushes[len(pushes)-1].Weights) != 2 {
			t.Errorf("the history has %+v", pushes)
		}
	}
	saved := func() int {
		c.unsaved = true
		state, _ := c.takeState(start)
		return len(state.Services)
	}
	rebuild(unweighed("cart", 1))
	if c.services[cart].machine != nil || saved() != 0 {
		t.Error("something is remembered of a service without a policy")
	}
	rebuild(shop("cart", 1))
	if c.services[cart].machine == nil || saved() != 1 {
		t.Error("nothing is remembered of a service with a policy")
	}
	machine := c.services[cart].machine
	rebuild(unweighed("cart", 1))
	if c.services[cart].machine != machine || saved() != 1 {
		t.Error("what was learned is forgotten with the policy")
	}

	c = testCore(lastgood.State{})
	rebuild(unweighed("cart", 1))
	if err := c.freeze("a test", cart, true); err != nil {
		t.Fatal(err)
	}
	rebuild(shop("cart", 1))
	if c.services[cart].machine.Frozen() == "" {
		t.Error("the service was frozen by name before its policy came, and is not")
	}
}

// TestAnIdleTickAllocatesLittle, however many services there are that nobody weighs.
func TestAnIdleTickAllocatesLittle(t *testing.T) {
	documents := []string{gateway}
	for i := range 100 {
		documents = append(documents, unweighed(fmt.Sprint("cart-", i), i))
	}
	c := testCore(lastgood.State{})
	c.rebuild(start, source.Update{Store: store(t, documents...)})
	view := c.view(nil)
	allocations := testing.AllocsPerRun(10, func() {
		c.step(start, nil)
		view = c.view(view)
	})
	if len(view.services) != 100 || allocations > 20 {
		t.Errorf("%v allocations for a tick of %d services, want at most 20", allocations, len(view.services))
	}
}
