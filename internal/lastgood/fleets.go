package lastgood

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
)

// Fleet is what the clients of one key of the cache were served: a fleet's, or the EDS-only clients' of a
// namespace ("eds:<namespace>"), which have no generations.
type Fleet struct {
	Key     string    `json:"key"`
	SavedAt time.Time `json:"savedAt"`
	// Number, At, Why and By are the generation's, as in snapshot.Generation.
	Number uint64    `json:"generation,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Why    string    `json:"why,omitempty"`
	By     string    `json:"by,omitempty"`
	Pin    *Pin      `json:"pin,omitempty"`

	Snapshot *snapshot.Snapshot `json:"-"`
}

// Pin says that the generation was not the fleet's newest, as snapshot.Pin does.
type Pin struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
	// Objects are fingerprints of what the pin ends with, by object; "" of one that does not exist.
	Objects    map[string]string `json:"objects,omitempty"`
	AllObjects bool              `json:"allObjects,omitempty"`
	Held       []string          `json:"held,omitempty"`
}

const (
	fleetSuffix = ".fleet"
	// fleetMagic is the first word of a fleet's file, as magic is of the state's.
	fleetMagic = "evenkeel-fleet-1"
	// maxFleets and maxFleetBytes bound what is read at a start, all files together.
	maxFleets, maxFleetBytes = 4096, 1 << 30
)

// head is the first line after the checksum; what follows it are the resources, encoded as an
// envoy.service.discovery.v3.DeltaDiscoveryResponse: the bytes that are sent.
type head struct {
	Fleet
	// Sources are the objects behind the resources, in their order.
	Sources []string `json:"sources"`
}

// SaveFleet replaces what is saved of a fleet. What was saved before stays whole if it fails.
func (d *Dir) SaveFleet(f Fleet) error {
	body, err := f.Encode()
	if err == nil {
		err = d.replace(fleetFile(f.Key), fleetMagic, body)
	}
	if err != nil {
		return fmt.Errorf("saving what fleet %s is served: %w", f.Key, err)
	}
	return nil
}

func (f Fleet) Encode() ([]byte, error) {
	h := head{Fleet: f}
	var resources []*snapshot.Resource
	for _, t := range translate.Types {
		named := f.Snapshot.Resources(t)
		for _, name := range slices.Sorted(maps.Keys(named)) {
			r := named[name]
			resources = append(resources, r)
			h.Sources = append(h.Sources, r.Source)
		}
	}
	line, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return append(append(line, '\n'), snapshot.Concat(resources, (*snapshot.Resource).Delta)...), nil
}

// ForgetFleet removes what is saved of a fleet.
func (d *Dir) ForgetFleet(key string) error {
	err := os.Remove(filepath.Join(d.path, fleetFile(key)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting what fleet %s was served: %w", key, err)
	}
	return nil
}

// HasFleets says whether anything is saved that a start could serve, be it usable or not.
func (d *Dir) HasFleets() bool {
	names, err := filepath.Glob(filepath.Join(d.path, "*"+fleetSuffix))
	return err == nil && len(names) > 0
}

// LoadFleets reads what every fleet was served and checks it as if it had been made now. Each error is of
// one file, which it names; the others are not concerned.
func (d *Dir) LoadFleets() (fleets []Fleet, errs []error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, []error{fmt.Errorf("reading the state directory: %w", err)}
	}
	known := map[string]*snapshot.Resource{}
	room := int64(maxFleetBytes)
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), fleetSuffix) {
			continue
		}
		path := filepath.Join(d.path, entry.Name())
		f, err := loadFleet(path, &room, known)
		if err == nil && fleetFile(f.Key) != entry.Name() {
			err = fmt.Errorf("is of fleet %q, whose file is %s", f.Key, fleetFile(f.Key))
		}
		if err == nil && len(fleets) == maxFleets {
			err = fmt.Errorf("the files before it are %d, and no more are read", maxFleets)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
			continue
		}
		fleets = append(fleets, f)
	}
	return fleets, errs
}

func loadFleet(path string, room *int64, known map[string]*snapshot.Resource) (Fleet, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Fleet{}, err
	}
	if !info.Mode().IsRegular() {
		return Fleet{}, errors.New("is no regular file")
	}
	if *room -= info.Size(); *room < 0 {
		return Fleet{}, fmt.Errorf("the files up to it have more than %d bytes together", maxFleetBytes)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return Fleet{}, err
	}
	body, err := verified(content, fleetMagic)
	if err != nil {
		return Fleet{}, err
	}
	return decodeFleet(body, known)
}

// DecodeFleet is the inverse of Fleet.Encode. What it returns is checked as if it had been made now.
func DecodeFleet(body []byte) (Fleet, error) {
	return decodeFleet(body, map[string]*snapshot.Resource{})
}

// decodeFleet is the inverse of Fleet.Encode. Resources that are known, by type, name, version and
// source, are shared; others are added to them.
func decodeFleet(body []byte, known map[string]*snapshot.Resource) (Fleet, error) {
	line, encoded, found := bytes.Cut(body, []byte("\n"))
	if !found {
		return Fleet{}, errors.New("has no resources: damaged")
	}
	var h head
	if err := json.Unmarshal(line, &h); err != nil {
		return Fleet{}, fmt.Errorf("head: %w", err)
	}
	var response discoveryv3.DeltaDiscoveryResponse
	if err := proto.Unmarshal(encoded, &response); err != nil {
		return Fleet{}, fmt.Errorf("resources: %w", err)
	}
	if len(response.GetResources()) != len(h.Sources) {
		return Fleet{}, fmt.Errorf("has %d resources of %d: damaged", len(response.GetResources()), len(h.Sources))
	}
	var resources []*snapshot.Resource
	for i, r := range response.GetResources() {
		url := r.GetResource().GetTypeUrl()
		id := strings.Join([]string{url, r.GetName(), r.GetVersion(), h.Sources[i]}, "\x00")
		if known[id] == nil {
			decoded, err := snapshot.Decode(cmp.Or(translate.TypeOf(url), translate.Type(url)), r.GetName(), r.GetVersion(), h.Sources[i], r.GetResource().GetValue())
			if err != nil {
				return Fleet{}, err
			}
			known[id] = decoded
		}
		resources = append(resources, known[id])
	}
	f := h.Fleet
	f.Snapshot = snapshot.New(resources...)
	if missing := f.Snapshot.Dangling(); len(missing) > 0 {
		return Fleet{}, fmt.Errorf("its resources do not fit together: %s", strings.Join(missing[:min(len(missing), 3)], "; "))
	}
	return f, nil
}

// fleetFile is the name of a key's file: readable, and no two the same. Names of objects can be longer than
// those of files.
func fleetFile(key string) string {
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, key)
	sum := sha256.Sum256([]byte(key))
	return strings.TrimLeft(readable[:min(len(readable), 120)], ".") + "-" + hex.EncodeToString(sum[:6]) + fleetSuffix
}
