// Package examples carries the example configurations inside the binary, so that the demo command works
// wherever the binary is.
package examples

import "embed"

// Demo is the directory demo/: the configuration of the demo command.
//
//go:embed demo/*.yaml
var Demo embed.FS
