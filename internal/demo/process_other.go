//go:build unix && !linux

package demo

import "syscall"

// childAttributes keep the terminal's Ctrl-C from the child, which is ours to end in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
