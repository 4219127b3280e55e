//go:build faults

package attach

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// FaultEnv names the variable that arms a fault point, VERB/STEP/WHEN/ACTION, in
// binaries built for tests with the tag faults. ACTION is kill (SIGKILL to itself),
// fail (an error) or wait:FILE (until FILE is there).
const FaultEnv = "FLATDHCP_FAULT"

func fault(verb, name string, w when) error {
	p := strings.SplitN(os.Getenv(FaultEnv), "/", 4)
	if len(p) != 4 || p[0] != verb || p[1] != name || p[2] != string(w) {
		return nil
	}
	action, file, _ := strings.Cut(p[3], ":")
	switch action {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // does not return
	case "wait":
		if err := os.WriteFile(file+".reached", nil, 0o600); err != nil {
			return err
		}
		for {
			if _, err := os.Stat(file); err == nil {
				return nil
			}
			time.Sleep(time.Millisecond)
		}
	}
	return fmt.Errorf("fault point %s/%s/%s", verb, name, w)
}
