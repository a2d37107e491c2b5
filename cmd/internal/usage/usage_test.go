package usage

import (
	"errors"
	"testing"

	"github.com/spf13/cobra"
)

func TestNearestFindsWhatWasMeant(t *testing.T) {
	words := []string{"gateways", "sessions", "workers"}
	for got, want := range map[string]string{
		"gatways": "gateways", "gateway": "gateways", "sesions": "sessions", "wrokers": "workers", "GATEWAYS": "gateways",
		"ga": "gateways", "nodes": "", "x": "", "": "",
	} {
		if word, _ := Nearest(got, words); word != want {
			t.Errorf("Nearest(%q): got %q, want %q", got, word, want)
		}
	}
}

func TestDistanceCountsASwapOnce(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "xbc", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q): got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestFlagWinsOverEnvironment(t *testing.T) {
	command := func() (*cobra.Command, *string, *[]string) {
		cmd := &cobra.Command{Use: "x"}
		one := cmd.Flags().String("data-dir", "default", "")
		many := cmd.Flags().StringSlice("control", []string{"default"}, "")
		return cmd, one, many
	}
	t.Setenv("LEASEHOLD_DATA_DIR", "from env")
	t.Setenv("LEASEHOLD_CONTROL", "a:1,b:2")

	cmd, one, many := command()
	if err := ApplyEnv(cmd); err != nil {
		t.Fatal(err)
	}
	if *one != "from env" || len(*many) != 2 || (*many)[1] != "b:2" {
		t.Errorf("without flags: got %q and %q, want the values of the environment", *one, *many)
	}

	cmd, one, many = command()
	if err := cmd.ParseFlags([]string{"--data-dir", "flag", "--control", "c:3"}); err != nil {
		t.Fatal(err)
	}
	if err := ApplyEnv(cmd); err != nil {
		t.Fatal(err)
	}
	if *one != "flag" || len(*many) != 1 || (*many)[0] != "c:3" {
		t.Errorf("with flags: got %q and %q, want the values of the flags", *one, *many)
	}
}

func TestErrorOfUsageIsRecognised(t *testing.T) {
	if !Is(errors.Join(Errorf("bad %s", "flag"))) {
		t.Error("Is of a joined Error: got false")
	}
	if Is(errors.New("other")) {
		t.Error("Is of another error: got true")
	}
}
