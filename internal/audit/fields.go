package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"

	"evenkeel.io/controlplane/internal/source"
)

// maxFields bounds the paths of a record.
const maxFields = 8

// Fields are the paths at which two versions of an object differ, "spec.rules[0].backendRefs[1].weight", in
// order. A list that grew or shrank is named by the items that came or went at its end. Past eight it says
// how many more there are.
func Fields(before, after source.Object) []string {
	var paths []string
	compare("", written(before), written(after), &paths)
	if n := len(paths) - maxFields; n > 0 {
		paths = append(paths[:maxFields], fmt.Sprintf("and %d more", n))
	}
	return paths
}

// Fingerprint is the same for two versions of an object exactly if what somebody wrote in them is the same. It
// is "" for no object.
func Fingerprint(obj source.Object) string {
	if obj == nil {
		return ""
	}
	text, err := json.Marshal(written(obj)) // keys are sorted
	if err != nil {
		return "?" // cannot be: it was made of JSON's types
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}

// written is the part of an object that somebody wrote, as JSON has it: no status, and of the metadata labels
// and annotations.
func written(obj source.Object) map[string]any {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil // cannot be: objects of a Store were read from JSON
	}
	delete(content, "status")
	delete(content, "kind")
	delete(content, "apiVersion")
	metadata, _ := content["metadata"].(map[string]any)
	content["metadata"] = map[string]any{"labels": metadata["labels"], "annotations": metadata["annotations"]}
	return content
}

func compare(path string, a, b any, paths *[]string) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			keys := slices.AppendSeq(slices.Collect(maps.Keys(x)), maps.Keys(y))
			slices.Sort(keys)
			for _, key := range slices.Compact(keys) {
				below := key
				if path != "" {
					below = path + "." + key
				}
				compare(below, x[key], y[key], paths)
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok {
			for i := range max(len(x), len(y)) {
				below := fmt.Sprintf("%s[%d]", path, i)
				if i >= len(x) || i >= len(y) {
					*paths = append(*paths, below)
					continue
				}
				compare(below, x[i], y[i], paths)
			}
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		*paths = append(*paths, path)
	}
}
