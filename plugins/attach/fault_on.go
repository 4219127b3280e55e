//go:build faults

package attach

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// FaultEnv names the variable that arms a fault point, VERB/STEP/WHEN/ACTION, in
// binaries built for tests with the tag faults. ACTION is kill (SIGKILL to itself),
// fail (an error) or wait:FILE (until FILE is there). With trace:FILE none is armed and
// each step is written down in FILE, a line VERB/STEP.
const FaultEnv = "FLATDHCP_FAULT"

func fault(verb, name string, w when) error {
	armed := os.Getenv(FaultEnv)
	if file, tracing := strings.CutPrefix(armed, "trace:"); tracing && w == before {
		return trace(file, verb+"/"+name+"\n")
	}
	p := strings.SplitN(armed, "/", 4)
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

func trace(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}
