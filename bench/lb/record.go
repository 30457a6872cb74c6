package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// record is everything that is kept of a run: a line of runs.jsonl. A report is made of records alone.
type record struct {
	trial
	settings
	Began time.Time `json:"began"`
	Made  making    `json:"made"`
	Lane  int       `json:"lane"`
	// Beside is how many other trials ran at the same time.
	Beside int `json:"beside"`

	// Requests of the window. Good were answered with 2xx within a second. Errors were answered with
	// something else, or lost their connection; TimedOut were given up by the client; Dropped were never
	// sent, because too many were under way.
	Requests int `json:"requests"`
	Good     int `json:"good"`
	Errors   int `json:"errors"`
	TimedOut int `json:"timedOut"`
	Dropped  int `json:"dropped"`
	// Latency of the requests that were answered with 2xx or timed out, from the moment they should have
	// been sent.
	Latency histogram `json:"latency"`

	// Speeds of the servers when nothing befalls them.
	Speeds []float64 `json:"speeds"`
	// Utilisation of each server, 0 to 1, and the requests it got, in each second of the window.
	Utilisation [][]ratio  `json:"utilisation"`
	Arrivals    [][]uint64 `json:"arrivals"`
	// Weights are the part of all that each server's published weight was in each second of the window;
	// missing where that is not known.
	Weights [][]ratio `json:"weights,omitempty"`
	// FaultAt is when the fault begins, since the start of the window; 0: there is none.
	FaultAt time.Duration `json:"faultAtNs,omitempty"`

	// Pushes of weights in the window; missing where there is no control plane, or it did not live to tell.
	Pushes *float64 `json:"pushes,omitempty"`
	// Busy is the share of the machine that was in use. A run above the limit does not count.
	Busy    float64 `json:"busy"`
	Counted bool    `json:"counted"`
}

// making is what a run was made with.
type making struct {
	Command string `json:"command"`
	// ControlPlane is the beginning of its program's SHA-256, Revision the commit that it was built from if
	// the build noted it, Modified that there was more to it than that.
	ControlPlane string `json:"controlPlane"`
	Revision     string `json:"revision,omitempty"`
	Modified     bool   `json:"modified,omitempty"`
	Envoy        string `json:"envoy"`
	Go           string `json:"go"`
	CPUs         int    `json:"cpus"`
	System       string `json:"system"`
}

// ratio is written with three decimals, which is what a second's worth of it is good for.
type ratio float64

// MarshalJSON writes three decimals at most.
func (r ratio) MarshalJSON() ([]byte, error) {
	return json.Marshal(math.Round(float64(r)*1000) / 1000)
}

// journal is the file of records, to which each is appended as its run ends.
type journal struct {
	mu   sync.Mutex // guards file
	file *os.File
}

const journalName = "runs.jsonl"

// openJournal returns the records that are there already. A last line that is cut off, because its
// writer was, is removed.
func openJournal(dir string) (*journal, []record, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("results: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("results: %w", err)
	}
	records, whole, err := readRecords(file.Name())
	if err == nil {
		err = file.Truncate(whole)
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return &journal{file: file}, records, nil
}

// readRecords returns the records of a file and how many bytes of it are whole lines.
func readRecords(path string) (records []record, whole int64, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: there are no runs to report on", path)
	} else if err != nil {
		return nil, 0, fmt.Errorf("results: %w", err)
	}
	for number := 1; ; number++ {
		line, rest, ended := bytes.Cut(text, []byte("\n"))
		if !ended {
			return records, whole, nil
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, 0, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		records = append(records, r)
		whole += int64(len(line)) + 1
		text = rest
	}
}

func (j *journal) append(r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return j.file.Sync()
}

func (j *journal) close() error { return j.file.Close() }

// latest leaves of several records of the same trial the last one.
func latest(records []record) []record {
	at := map[trial]int{}
	var kept []record
	for _, r := range records {
		if i, again := at[r.trial]; again {
			kept[i] = r
			continue
		}
		at[r.trial] = len(kept)
		kept = append(kept, r)
	}
	return kept
}
