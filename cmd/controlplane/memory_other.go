//go:build !linux

package main

// unmapProgram does nothing: what other systems count as a process's memory is not known here.
func unmapProgram() {}
