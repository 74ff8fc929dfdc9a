"""What a long measurement says as it goes."""


def show(what, figure, must=""):
    print(f"{what:48} {figure:>28}  {must}", flush=True)
