"""Values, names and formats that every room shares. Nothing here touches disk, network or clock at import."""
