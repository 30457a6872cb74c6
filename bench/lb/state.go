package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"evenkeel.io/controlplane/internal/lastgood"
)

var (
	laneAddress = regexp.MustCompile(`\b127\.0\.\d+\.`)
	timeText    = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*"`)
)

// learning is longer than any warm-up: times further from its end than that are not of it, as the start of
// a simulated server, and stay.
const learning = 24 * time.Hour

// moveState makes what the control plane learnt in another lane, some time ago, known of the servers of this
// one, which differ in their addresses alone, and as of now: every run starts as if the warm-up had just
// ended.
func moveState(path string, lane int, now time.Time) error {
	dir, err := lastgood.Open(path)
	if err != nil {
		return err
	}
	state, err := dir.Load()
	if errors.Is(err, lastgood.ErrNone) {
		return nil
	} else if err != nil {
		return err
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	text = laneAddress.ReplaceAll(text, fmt.Appendf(nil, "127.0.%d.", firstLane+lane))
	text = timeText.ReplaceAllFunc(text, func(quoted []byte) []byte {
		var t time.Time
		if t.UnmarshalJSON(quoted) != nil || t.Sub(state.SavedAt).Abs() > learning {
			return quoted
		}
		return fmt.Appendf(nil, "%q", t.Add(now.Sub(state.SavedAt)).Format(time.RFC3339Nano))
	})
	var moved lastgood.State
	if err := json.Unmarshal(text, &moved); err != nil {
		return err
	}
	return dir.Save(moved)
}
