"""What every part of the house stands on and no user needs: files and folders, text from elsewhere, signals, memory."""
