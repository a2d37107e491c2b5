package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// environment says where and how figures were measured.
type environment struct {
	// CPUs is how many CPUs the machine has.
	CPUs int `json:"cpus"`
	// Processor is what they are.
	Processor string `json:"processor"`
	// Kernel is the operating system's.
	Kernel string `json:"kernel"`
	// Go is the version of Go.
	Go string `json:"go"`
	// Commit is the commit, with a mark if files differ from it.
	Commit string `json:"commit"`
	// Nginx is the version of nginx, if it is installed.
	Nginx string `json:"nginx,omitempty"`
	// Date is when the run began.
	Date string `json:"date"`
	// Command is the command line.
	Command string `json:"command"`
	// Note says what was left out, and why.
	Note string `json:"note,omitempty"`
}

// readEnvironment looks around.
func readEnvironment(args []string) environment {
	e := environment{
		CPUs: runtime.NumCPU(), Go: runtime.Version(), Date: time.Now().UTC().Format(time.RFC3339),
		Kernel:  strings.TrimSpace(runtime.GOOS + "/" + runtime.GOARCH + " " + output("uname", "-r")),
		Commit:  output("git", "rev-parse", "--short=12", "HEAD"),
		Command: strings.TrimSpace("go run ./test/bench " + strings.Join(args, " ")),
	}
	if output("git", "status", "--porcelain") != "" {
		e.Commit += "+changes"
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(info), "model name")
		line, _, _ := strings.Cut(rest, "\n")
		e.Processor = strings.Trim(line, "\t :")
	}
	if e.Nginx = strings.TrimPrefix(output("nginx", "-v"), "nginx version: "); e.Nginx == "" {
		e.Note = "nginx is not installed and was left out"
	}
	return e
}

// output is what a command prints, or empty if it fails.
func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
