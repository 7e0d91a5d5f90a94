from dialog_trainer.cli import entry

if __name__ == "__main__":
    entry()
