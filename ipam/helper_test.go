package ipam

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperEnv makes the test binary a helper process of the name it holds.
const helperEnv = "FLATDHCP_IPAM_TEST_HELPER"

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		run, ok := helpers[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "no helper %q\n", name)
			os.Exit(2)
		}
		if err := run(os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "helper %s %v: %v\n", name, os.Args[1:], err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var helpers = map[string]func(args []string) error{
	"worker":   helpWork,
	"reader":   helpRead,
	"churn":    helpChurn,
	"fulldisk": helpFullDisk,
	"readonly": helpReadOnly,
	"stranger": helpStranger,
}

// helper prepares a helper process.
func helper(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// untilEOF returns a channel that is closed when stdin is: the parent's word to stop.
func untilEOF() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	return done
}

// helpWork DATADIR CLAIMS ID: says that it is ready, waits for a byte on stdin, then
// reserves and releases for workloads of its own until stdin ends, printing a dot for each operation, then the addresses it still holds.
// While it holds an address it has a file of that name in CLAIMS, which a second
// holder would find.
func helpWork(args []string) error {
	d := OpenDir(args[0])
	d.noSync = true // the locks are what is tested
	s := d.Store("flat")
	claims, id := args[1], args[2]
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	held := make(map[string]string) // container to address
	rnd := rand.New(rand.NewSource(int64(os.Getpid())))
	fmt.Println("ready")
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return err
	}
	stop := untilEOF()
	for i := 0; ; i++ {
		select {
		case <-stop:
			fmt.Println()
			for _, a := range held {
				fmt.Println(a)
			}
			return nil
		default:
		}
		cid := fmt.Sprintf("%s-%d", id, i%3)
		if a, ok := held[cid]; ok {
			if err := os.Remove(filepath.Join(claims, a)); err != nil {
				return err
			}
			if r, ok, err := s.Release(ctx, cid, "eth0"); err != nil || !ok || r.Addr.String() != a {
				return fmt.Errorf("releasing %s of %s: %v, %v, %w", a, cid, r, ok, err)
			}
			delete(held, cid)
		} else {
			req := request(cid, cid)
			if rnd.Intn(2) == 0 {
				req.Workload.Value = fmt.Sprintf("%s-%d", cid, rnd.Intn(1000))
			}
			g, err := s.Reserve(ctx, nil, req)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(filepath.Join(claims, g.Addr.String()), os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("two hold one address: %w", err)
			}
			if err := f.Close(); err != nil {
				return err
			}
			held[cid] = g.Addr.String()
		}
		fmt.Print(".")
	}
}

// helpRead DATADIR: reads all rows over and over until stdin ends.
func helpRead(args []string) error {
	s := OpenDir(args[0]).Store("flat")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	stop := untilEOF()
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		err := s.View(ctx, func(v *View) error {
			seen := uint64(0)
			for _, err := range v.All() {
				if err != nil {
					return err
				}
				seen++
			}
			stats, err := v.Stats()
			if err == nil && stats.Used != seen {
				err = fmt.Errorf("%d rows, the statistics say %d", seen, stats.Used)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
}

// helpChurn DATADIR ID: reserves and releases until it is killed, saying what it is
// about to do and what it did.
func helpChurn(args []string) error {
	d := OpenDir(args[0])
	id := args[1]
	n := testNet("flat", "10.0.0.0/24")
	n.Pool.ReuseDelay = 0
	for i := 0; ; i++ {
		cid := fmt.Sprintf("%s-%d", id, i/2)
		if i%2 == 1 && i%4 != 3 { // every other one stays
			fmt.Println("releasing", cid)
			if _, ok, err := d.Store("flat").Release(context.Background(), cid, "eth0"); err != nil || !ok {
				return fmt.Errorf("Release = %v, %w", ok, err)
			}
			fmt.Println("released", cid)
		} else if i%2 == 0 {
			fmt.Println("reserving", cid)
			if _, err := d.Store("flat").Reserve(context.Background(), &n, request(cid, cid)); err != nil {
				return err
			}
			fmt.Println("reserved", cid)
		}
	}
}

// startHelper starts cmd with pipes.
func startHelper(t *testing.T, cmd *exec.Cmd) (io.WriteCloser, *bufio.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after a failure; else it has ended
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return in, bufio.NewReader(out)
}

// inOwnMounts makes cmd run in a mount namespace of its own, or skips the test.
func inOwnMounts(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("FLATDHCP_REQUIRE_ROOT") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root: mounts a file system in a mount namespace of its own")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
}

func runHelper(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("helper: %v\n%s", err, out)
	}
}
