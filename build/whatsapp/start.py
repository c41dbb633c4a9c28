"""Start of the WhatsApp program as it is shipped: only what lies beside this file is imported."""

from whatsapp.__main__ import main

main()
