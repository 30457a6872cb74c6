package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/weights"
)

// TestStateMovesToAnotherLaneAndTime: addresses and what was dated in the warm-up move, all else stays.
func TestStateMovesToAnotherLaneAndTime(t *testing.T) {
	path := t.TempDir()
	dir, err := lastgood.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	saved := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := weights.EndpointState{Address: "127.0.18.1:18080", X: 3.14159265358979, Restarted: serversStarted, FirstSeen: saved.Add(-time.Minute)}
	e.Read.To = saved.Add(-time.Second)
	state := lastgood.State{SavedAt: saved, Services: map[string]weights.MachineState{"lb/servers": {Endpoints: []weights.EndpointState{e}}}}
	if err := dir.Save(state); err != nil {
		t.Fatal(err)
	}
	now := saved.Add(40 * time.Minute)
	if err := moveState(path, 0, now); err != nil {
		t.Fatal(err)
	}
	moved, err := dir.Load()
	if err != nil {
		t.Fatal(err)
	}
	got := moved.Services["lb/servers"].Endpoints[0]
	if got.Address != "127.0.16.1:18080" || got.X != e.X {
		t.Errorf("address %s, x %v, want 127.0.16.1:18080 and the same x", got.Address, got.X)
	}
	if !moved.SavedAt.Equal(now) || !got.FirstSeen.Equal(now.Add(-time.Minute)) || !got.Read.To.Equal(now.Add(-time.Second)) {
		t.Errorf("saved %s, first seen %s, read %s, want them 40 minutes later", moved.SavedAt, got.FirstSeen, got.Read.To)
	}
	if !got.Restarted.Equal(serversStarted) {
		t.Errorf("restarted %s, want %s as before", got.Restarted, serversStarted)
	}
	text, _ := json.Marshal(moved)
	if strings.Contains(string(text), "127.0.18.") {
		t.Errorf("the old lane is still there: %s", text)
	}
	if err := moveState(t.TempDir(), 0, now); err != nil {
		t.Errorf("nothing to move: %v", err)
	}
}
