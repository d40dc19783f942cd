module keyround/vectors

go 1.22

require github.com/C2SP/wycheproof v0.0.0-20250901140545-b51abcfb8daf
