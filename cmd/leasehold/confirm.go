package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// terminal reports whether somebody who could be asked may sit at in.
func terminal(in io.Reader) bool {
	file, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// confirm asks a question and returns nil only if the answer is yes, in full.
func confirm(in io.Reader, out io.Writer, question string) error {
	if _, err := fmt.Fprintf(out, "%s Type yes: ", question); err != nil {
		return err
	}
	answer, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(out) // what follows begins a line
		return errors.New("there was no answer")
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("the answer was not yes")
	}
	return nil
}
