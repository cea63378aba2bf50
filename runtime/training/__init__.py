"""What runs inside a rank: the model, its objective and data, and the torchtitan trainer that joins them.

Importing it imports torch. `platform` comes first: it fixes the device before torchtitan is imported.
"""

from runtime.training import platform as platform
