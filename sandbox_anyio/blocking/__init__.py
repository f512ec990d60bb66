"""The synchronous face: the asynchronous client in a thread of its own, for those who block.

    with SandboxClient() as client, client.sandbox() as sb:
        print(sb.run("echo hello").stdout)

What its methods are called and take is written by `generate`, from the asynchronous ones.
"""
