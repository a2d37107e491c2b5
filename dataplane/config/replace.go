package config

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace makes content the file at path, for its owner's eyes only. Whenever the
// process or the machine ends, what was there before is there whole, or this is; and
// this is there for good once Replace has returned.
func Replace(path string, content []byte) error {
	whole := path + ".new"
	if err := writeDurably(whole, content); err != nil {
		return err
	}
	if err := os.Rename(whole, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeDurably(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
