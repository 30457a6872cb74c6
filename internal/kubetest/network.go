package kubetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// ErrNoPrivateNetwork says that the system gives this user no network namespace.
var ErrNoPrivateNetwork = errors.New("no network namespace of our own")

// inPrivateNetwork is set in the environment of those that PrivateNetwork has moved.
const inPrivateNetwork = "EVENKEEL_IN_PRIVATE_NETWORK"

var networkErr error // why PrivateNetwork did not do what it says

// PrivateNetwork runs the tests of a package in a network namespace that has nothing but itself. In it all
// of 10.250.0.0/16 and fd00:250::/64 (for Pods) and 172.30.0.0/24 (for Gateways) is local: a test backend
// listens on any of these addresses, EndpointSlices may hold them, an Envoy of the test reaches them, and
// a connection to one on which nobody listens is refused at once. Tests that take ports of such addresses
// meet no other package's.
//
// Call it first in TestMain: the test binary begins anew in there. Where the system does not allow it,
// Shared and Start skip the test.
func PrivateNetwork() {
	if os.Getenv(inPrivateNetwork) != "" {
		return
	}
	networkErr = enterPrivateNetwork()
}

// enterPrivateNetwork returns only if it fails.
func enterPrivateNetwork() error {
	root, err := moduleDir("evenkeel.io/controlplane")
	if err != nil {
		return err
	}
	script := filepath.Join(root, "hack", "kube", "netns.sh")
	if out, err := exec.Command(script, "true").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s: %w: %s", ErrNoPrivateNetwork, script, err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := append([]string{script, self}, os.Args[1:]...)
	return syscall.Exec(script, argv, append(os.Environ(), inPrivateNetwork+"=1"))
}
