package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
)

// warmUp is what an arm knows after some minutes before quiet servers, kept as a folder in the results.
// All runs of the arm on such servers start from copies of it, so that they differ in nothing that they
// learnt before.
type warmUp struct {
	arm      arm
	topology topology
	folder   string
}

// warmed is the warm-up that a run of the arm starts from. Another program or another time makes another.
func (r *runner) warmed(a arm, t topology) warmUp {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%+v %s %s", t, r.Warmup, r.made.ControlPlane)
	return warmUp{a, t, filepath.Join(r.results, "warm", fmt.Sprintf("%s-%012x", strings.ReplaceAll(a.name, " ", "-"), hash.Sum64()&(1<<48-1)))}
}

func (w warmUp) exists() bool {
	_, err := os.Stat(w.folder)
	return err == nil
}

// missing warm-ups of the slots, in the order in which they are needed, at most limit of them.
func (r *runner) missing(slots []slot, limit int) ([]warmUp, error) {
	var list []warmUp
	seen := map[string]bool{}
	for _, s := range slots {
		for _, t := range s {
			a, err := armNamed(t.Arm)
			if err != nil {
				return nil, err
			}
			of, err := scenarioNamed(t.Scenario)
			if err != nil {
				return nil, err
			}
			w := r.warmed(a, of.topology())
			if !a.warms || seen[w.folder] || r.cold[w.folder] || w.exists() {
				continue
			}
			seen[w.folder] = true
			if list = append(list, w); len(list) == limit {
				return list, nil
			}
		}
	}
	return list, nil
}

// warm runs a warm-up in a lane and keeps what was learnt.
func (r *runner) warm(ctx context.Context, w warmUp, lane int) error {
	dir, err := os.MkdirTemp("", "evenkeel-lb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Beside the folder it becomes, for a rename does not leave a file system.
	if err := os.MkdirAll(filepath.Dir(w.folder), 0o755); err != nil {
		return err
	}
	state, err := os.MkdirTemp(filepath.Dir(w.folder), ".unfinished-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state) // it has another name by then if all went well
	quiet := scenario{alter: func(t *topology) { *t = w.topology }}
	// Repetitions count from 1: a warm-up has arrivals of its own.
	into := record{trial: trial{Arm: w.arm.name}, settings: settings{Window: r.Warmup}, Lane: lane}
	if err := r.measure(ctx, quiet, w.arm, dir, state, &into); err != nil {
		return err
	}
	return os.Rename(state, w.folder)
}

// copyTo makes a folder that holds what the warm-up knows.
func (w warmUp) copyTo(folder string) error {
	if err := os.CopyFS(folder, os.DirFS(w.folder)); err != nil {
		return fmt.Errorf("warm-up of %s: %w", w.arm.name, err)
	}
	return nil
}
