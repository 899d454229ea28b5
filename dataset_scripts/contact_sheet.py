"""The function of `commands/contact_sheet.py`, under the name that people's scripts import."""

from .commands.contact_sheet import contact_sheet as contact_sheet
