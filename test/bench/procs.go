package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// milliseconds turns a duration into a number.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// tick is the unit of the CPU times in /proc, on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuTime is the CPU time that processes and their children have used, in user
// and kernel mode.
func cpuTime(processes []*cluster.Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range processes {
		pids := []string{strconv.Itoa(p.PID)}
		children, err := os.ReadFile(filepath.Join("/proc", pids[0], "task", pids[0], "children"))
		if err == nil {
			pids = append(pids, strings.Fields(string(children))...)
		}
		for _, pid := range pids {
			used, err := cpuTimeOf(pid)
			if err != nil {
				return 0, fmt.Errorf("read CPU time of %s: %w", p.Name, err)
			}
			sum += used
		}
	}
	return sum, nil
}

// cpuTimeOf is the CPU time of one process.
func cpuTimeOf(pid string) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may have spaces in it; utime and stime are the
	// 12th and 13th field after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("unexpected %q", stat)
	}
	var sum time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}

// residentBytes is how much memory of a process is in RAM.
func residentBytes(pid int) (float64, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	line, _, _ := strings.Cut(rest, "kB")
	kib, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil {
		return 0, fmt.Errorf("read resident memory of process %d: %w", pid, err)
	}
	return kib * 1024, nil
}

// descriptors is how many file descriptors a process has open.
func descriptors(pid int) (int, error) {
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	return len(entries), err
}

// loadAverage is the machine's load over the last minute.
func loadAverage() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}

// profile starts a CPU profile of processes, if that is wanted, and returns
// what ends it.
func (b *bench) profile(name string, processes []*cluster.Process) (func(), error) {
	if b.profiles == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return nil, err
	}
	var running []*exec.Cmd
	for _, p := range processes {
		file := filepath.Join(b.profiles, name+"-"+p.Name+".perf")
		cmd := exec.Command("perf", "record", "-q", "-F", "997", "-g", "-p", strconv.Itoa(p.PID), "-o", file)
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("profile %s: %w", p.Name, err)
		}
		running = append(running, cmd)
	}
	return func() {
		for _, cmd := range running {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		}
	}, nil
}
