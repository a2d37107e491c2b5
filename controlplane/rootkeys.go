package controlplane

import "github.com/leasehold/leasehold/controlplane/keyring"

// NewRootKey returns a fresh root key, as a line of a RootKeyFile, and its id.
func NewRootKey() (line, id string) {
	key := keyring.NewRootKey()
	return key.Reveal(), key.ID()
}

// MakeRootKeyFile makes a RootKeyFile with a fresh key that nobody but its owner may
// read, and returns the key's id. It returns fs.ErrExist if there is a file.
func MakeRootKeyFile(path string) (id string, err error) { return keyring.MakeRootFile(path) }

// PrependRootKey puts a fresh key before those in a RootKeyFile, and returns the ids
// of all of them, the fresh one's first.
func PrependRootKey(path string) (ids []string, err error) { return keyring.PrependRootKey(path) }
