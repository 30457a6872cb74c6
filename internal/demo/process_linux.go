package demo

import "syscall"

// childAttributes keep the terminal's Ctrl-C from the child, which is ours to end in order, and have the
// kernel end it should we be killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
