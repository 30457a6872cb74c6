package session

import (
	"regexp"

	"evenkeel.io/controlplane/internal/snapshot"
)

// namePatterns find resource names in Envoy's words, the most telling first. Envoy names the
// resource outright where it applied a batch one by one; where protoc-gen-validate refused the
// message, the whole resource follows as prototext. That dump begins with a randomised prefix, so
// only its fields can be matched, never the text.
//
// The reference rate limit service begins with the name.
var namePatterns = []*regexp.Regexp{
	regexp.MustCompile(`(?:cluster|listener)\(s\) (\S+): `),
	regexp.MustCompile(`\bcluster_name: ?"([^"]+)"`),
	regexp.MustCompile(`\bname: ?"([^"]+)"`),
	regexp.MustCompile(`\broute_config_name: ?"([^"]+)"`),
	regexp.MustCompile(`\): (\S+)$`),
	regexp.MustCompile(`^(\S+): `),
}

// suspect is the resource that a refusal is about: of those that were sent the one that the message
// mentions in the most telling way. Envoy gives no name for what protoc-gen-validate lets through and EDS
// itself refuses.
func suspect(message string, sent map[string]*snapshot.Resource) (name string, found bool) {
	for _, pattern := range namePatterns {
		for _, match := range pattern.FindAllStringSubmatch(message, 16) {
			if _, found = sent[match[1]]; found {
				return match[1], true
			}
		}
	}
	return "", false
}
