"""What a channel and the host say to each other (`wire`), and a channel that does as a script says (`scripted`)."""
